"""Batches run by the thread that brought the work. Nothing waits, and no other thread is needed."""

from __future__ import annotations

import contextlib
import math

import numpy as np
import pytest

from convserve.arrays import Images
from convserve.batching import (
    Batcher,
    BatchQueue,
    BatchRun,
    BatchTimes,
    Item,
    Outputs,
    QueueLimits,
    ReleaseReason,
    Turns,
)
from convserve.batching.lateness import Lateness
from convserve.errors import DeadlineError


class Quiet:
    """An observer that only counts drops."""

    def __init__(self) -> None:
        self.dropped = 0

    def batch_ran(self, run: BatchRun) -> None: ...

    def items_dropped(self, reason: str, items: int) -> None:
        self.dropped += items

    def batch_failed(self, error: BaseException) -> None:
        raise error


class Model:
    """A batcher whose batches take a millisecond a row of a clock that only they move."""

    clock = 100.0

    def __init__(self, log: list[str], name: str, *, slots: int = 1, delay: float = 0.0, row: float = 0.001) -> None:
        self.log, self.name, self.row = log, name, row
        times = BatchTimes({size: size * row for size in (1, 2, 4, 8, 16, 32, 64)})
        limits = QueueLimits(max_batch_size=64, max_queue_delay=delay)
        self.observer = Quiet()
        self.batcher = Batcher(
            BatchQueue(limits, times.predict),
            self.run,
            times=times,
            observer=self.observer,
            slots=slots,
            clock=lambda: Model.clock,
        )
        self.batcher._state = "running"  # without its threads: what is not run here is never run
        self.answers: list[Outputs | BaseException] = []
        self.runs: list[BatchRun] = []

    def run(self, images: Images) -> Outputs:
        Model.clock += self.row * len(images)
        self.log.append(f"{self.name}{len(images)}")
        values = images[:, 0, 0, :].astype(np.float32)
        return Outputs(values, values)

    def submit(self, rows: int, turns: Turns, deadline: float = math.inf) -> None:
        def done(outcome: Outputs | BaseException, runs: list[BatchRun]) -> None:
            self.answers.append(outcome)
            self.runs.extend(runs)

        images = np.arange(rows, dtype=np.uint8).reshape(rows, 1, 1, 1)
        self.batcher.submit(Item(images, done, deadline=deadline), wake=False)
        turns.add(self.batcher)


def test_models_take_turns_of_short_batches() -> None:
    """Whoever floods one model cannot keep another's callers waiting for more than one short batch."""
    log: list[str] = []
    turns = Turns(lambda: Model.clock)
    flooded, quiet = Model(log, "f"), Model(log, "q")
    for _ in range(10):
        flooded.submit(1, turns)
    quiet.submit(1, turns)
    while turns:
        turns.run_one()
    assert sorted(log[:2]) == ["f2", "q1"]  # both are new
    assert log[2:] == ["f2", "f2", "f2", "f2"]
    assert len(flooded.answers) == 10
    assert {run.reason for run in flooded.runs[:8]} == {ReleaseReason.FULL}


def test_who_computes_little_goes_first_and_starves_nobody() -> None:
    """A model that is asked for a row again and again gets its half beside a flooded one, and waits for one turn."""
    log: list[str] = []
    turns = Turns(lambda: Model.clock)
    flooded, asked = Model(log, "f"), Model(log, "a")
    for _ in range(100):
        flooded.submit(1, turns)
    turns.run_one()
    for _ in range(40):
        if not asked.batcher.waiting_rows:
            asked.submit(1, turns)
        turns.run_one()
    story = "".join(one[0] for one in log)
    assert "ff" not in story[1:]
    assert "aaa" not in story
    computed = {name: sum(int(one[1:]) for one in log if one[0] == name) for name in "fa"}
    assert computed["f"] == pytest.approx(computed["a"], abs=2)


def test_a_pause_saves_nothing_up() -> None:
    """Who comes back after a long pause does not keep the others waiting for all that it did not use."""
    log: list[str] = []
    turns = Turns(lambda: Model.clock)
    busy, back = Model(log, "b"), Model(log, "r")
    for _ in range(100):
        busy.submit(1, turns)
    for _ in range(40):
        turns.run_one()
    for _ in range(20):
        back.submit(1, turns)
    for _ in range(6):
        turns.run_one()
    assert [one[0] for one in log[40:]].count("b") >= 2


def test_a_large_request_comes_back_whole() -> None:
    """It is split over many turns, and its rows are in order."""
    turns = Turns(lambda: Model.clock)
    model = Model([], "m")
    model.submit(50, turns)
    while turns:
        turns.run_one()
    (answer,) = model.answers
    assert isinstance(answer, Outputs)
    assert answer.logits[:, 0].tolist() == list(range(50))
    assert [run.item_rows for run in model.runs] == [2] * 23 + [4]


def test_a_model_that_has_the_thread_to_itself_has_long_turns() -> None:
    """Every turn has a cost; it is paid for others, and for a second after them, not for nobody."""
    log: list[str] = []
    turns = Turns(lambda: Model.clock)
    busy, other = Model(log, "b"), Model(log, "o")

    def next_turn() -> str:
        turns.run_one()
        return log[-1]

    for _ in range(60):
        busy.submit(1, turns)
    assert next_turn() == "b2"  # it has only just come
    Model.clock += 1.0
    assert next_turn() == "b8"
    other.submit(1, turns)
    assert {next_turn(), next_turn()} == {"o1", "b2"}
    busy.submit(1, turns)
    Model.clock += 0.9
    assert next_turn() == "b2"
    Model.clock += 0.2
    assert next_turn() == "b8"
    turns.share()
    assert next_turn() == "b2"


@pytest.mark.parametrize(
    ("seconds", "rows"),
    [
        ({1: 0.0005, 2: 0.001, 4: 0.002, 8: 0.004}, 4),
        ({1: 0.0005, 2: 0.0006, 4: 0.0008, 8: 0.0048}, 5),  # beyond 4 rows a row takes ten times as long
        ({1: 0.0001, 8: 0.1}, 1),
        ({1: 0.0001, 8: 0.001}, 8),
        ({1: 0.005, 8: 0.01}, 1),
    ],
)
def test_a_turn_takes_no_longer_than_predicted_also_between_measured_sizes(
    seconds: dict[int, float], rows: int
) -> None:
    """However the time grows with the rows; a first row that takes longer runs alone."""
    log: list[str] = []
    turns = Turns(lambda: Model.clock)
    model = Model(log, "m")
    model.batcher._times = BatchTimes(seconds)
    for _ in range(64):
        model.submit(1, turns)
    turns.run_one()
    assert log == [f"m{rows}"]


def test_a_request_is_not_torn_apart_for_a_little_time() -> None:
    """What takes up to two turns runs in one, whole: two batches would cost more than the wait that they save."""
    log: list[str] = []
    turns = Turns(lambda: Model.clock)
    model = Model(log, "m")
    for _ in range(3):
        model.submit(3, turns)
    while turns:
        turns.run_one()
    assert log == ["m3", "m3", "m3"]


@pytest.mark.parametrize("settings", [{"slots": 2}, {"delay": 0.01}, {"row": 0.01}])
def test_what_waits_overlaps_or_takes_long_has_threads(settings: dict[str, float]) -> None:
    """Several slots, a window, and models that take longer than a turn are not for the thread that reads requests."""
    assert Model([], "m").batcher.runs_here(1, 0.002)
    assert not Model([], "m", **settings).batcher.runs_here(1, 0.002)  # type: ignore[arg-type]


def test_a_request_that_would_be_torn_apart_has_a_thread() -> None:
    """Up to two turns it stays whole; beyond, each of its pieces would be a turn with all that belongs to one."""
    batcher = Model([], "m").batcher
    assert [rows for rows in (1, 2, 4, 5, 64, 65, 1000) if batcher.runs_here(rows, 0.002)] == [1, 2, 4]


def test_a_taken_slot_is_left_to_its_holder() -> None:
    """Whoever holds the slot looks at the queue again before it gives up; running beside it would be one slot more."""
    turns = Turns(lambda: Model.clock)
    model = Model([], "m")
    model.submit(1, turns)
    model.batcher._slots.acquire()
    turns.run_one()
    assert not turns
    assert model.answers == []


def test_rows_that_cannot_make_their_deadline_are_dropped() -> None:
    """A caller who will have given up before the batch is done is told so at once, and nothing is computed."""
    log: list[str] = []
    turns = Turns(lambda: Model.clock)
    model = Model(log, "m")
    model.submit(1, turns, deadline=Model.clock + 0.0015)
    Model.clock += 0.001  # something else took longer than predicted
    turns.run_one()
    assert log == []
    assert isinstance(model.answers[0], DeadlineError)
    assert model.observer.dropped == 1


def test_admission_learns_from_late_answers() -> None:
    """Once answers come later than the times of batches tell, requests need more room before their deadline."""
    turns = Turns(lambda: Model.clock)
    model = Model([], "m")
    model.submit(1, turns, deadline=Model.clock + 0.005)  # 1 ms would do
    for _ in range(50):
        model.submit(1, turns, deadline=Model.clock + 1)
        Model.clock += 0.02  # between arrival and batch
        turns.run_one()
    with pytest.raises(DeadlineError, match=r"would take about 0\.02"):
        model.submit(1, turns, deadline=Model.clock + 0.005)
    model.submit(1, turns, deadline=Model.clock + 0.1)


def test_admission_forgets_an_overload() -> None:
    """When all callers leave the same time, and it was too little for a while, they are let in again when it is not."""
    turns = Turns(lambda: Model.clock)
    model = Model([], "m")
    for _ in range(50):
        model.submit(1, turns, deadline=Model.clock + 1)
        Model.clock += 0.02
        turns.run_one()
    refused = []
    for index in range(1000):  # 10 ms apart; a request takes 1 ms
        Model.clock += 0.009
        try:
            model.submit(1, turns, deadline=Model.clock + 0.005)
        except DeadlineError:
            refused.append(index)
        else:
            turns.run_one()
    assert refused[:9] == list(range(9))
    assert refused[-1] < 100


def test_admission_forgets_a_machine_that_was_slow() -> None:
    """Also when it is the batches that took long, so that every request seems to be hopeless."""
    turns = Turns(lambda: Model.clock)
    model = Model([], "m")
    model.row = 0.1
    for _ in range(20):
        model.submit(1, turns, deadline=Model.clock + 10)
        turns.run_one()
    model.row = 0.001
    answered = 0
    for _ in range(3000):
        Model.clock += 0.01
        try:
            model.submit(1, turns, deadline=Model.clock + 0.005)
        except DeadlineError:
            continue
        turns.run_one()
        answered += 1
    assert answered > 1000
    assert model.observer.dropped == 0


def test_hopeless_requests_take_little_of_the_time() -> None:
    """Where nobody leaves enough time, one is computed now and then, for a tenth of the time at most."""
    log: list[str] = []
    turns = Turns(lambda: Model.clock)
    model = Model(log, "m")
    began = Model.clock
    for _ in range(3000):
        Model.clock += 0.01
        with contextlib.suppress(DeadlineError):
            model.submit(32, turns, deadline=Model.clock + 0.005)
        while turns:
            turns.run_one()
    computed = sum(int(one[1:]) for one in log) * model.row
    assert 0 < computed < 0.1 * (Model.clock - began)


def test_a_hopeless_request_does_not_run_for_learnings_sake_while_others_are_answered() -> None:
    """Answers to requests with deadlines tell enough."""
    log: list[str] = []
    turns = Turns(lambda: Model.clock)
    model = Model(log, "m")
    for _ in range(100):
        Model.clock += 0.009
        with pytest.raises(DeadlineError):
            model.submit(1, turns, deadline=Model.clock + 0.0005)
        model.submit(1, turns, deadline=Model.clock + 1)
        turns.run_one()
    assert log == ["m1"] * 100


def test_an_overload_is_forgotten_in_a_pause() -> None:
    """Who calls an idle server, minutes after it was overloaded, is not refused for that; nor is the next one."""
    turns = Turns(lambda: Model.clock)
    model = Model([], "m")

    def overload() -> None:
        for _ in range(50):
            model.submit(1, turns, deadline=Model.clock + 100)
            Model.clock += 20
            turns.run_one()

    overload()
    with pytest.raises(DeadlineError):
        model.submit(1, turns, deadline=Model.clock + 10)
    Model.clock += 60
    for _ in range(3):
        model.submit(1, turns, deadline=Model.clock + 10)
        turns.run_one()
    overload()
    model.submit(1, turns)
    Model.clock += 60
    with pytest.raises(DeadlineError):  # it is no pause when something waits for all that time
        model.submit(1, turns, deadline=Model.clock + 10)


def test_lateness_covers_most_answers() -> None:
    """The allowance lies above the mean by two deviations, and answers that come early give nothing away."""
    lateness = Lateness()
    for index in range(500):
        lateness.note(0.1, 0.1 + (0.01 if index % 2 else 0.03), 1.0)
    assert 0.035 < lateness.allowance < 0.05
    for _ in range(200):
        lateness.note(0.1, 0.05, 1.0)
    assert lateness.allowance == 0.0
