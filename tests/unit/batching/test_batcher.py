"""The threads around the queue. A gate runtime runs a batch only when the test opens it; nothing sleeps."""

from __future__ import annotations

import math
import queue as thread_queue
import threading
from collections.abc import Iterator
from concurrent.futures import Future

import numpy as np
import pytest

from convserve.arrays import Images
from convserve.batching import Batcher, BatchQueue, BatchRun, BatchTimes, Item, Outputs, Priority, QueueLimits
from convserve.errors import (
    CancelledError,
    DeadlineError,
    InternalError,
    OverloadedError,
    UnavailableError,
)

WAIT = 10.0


class Gate:
    """A runtime that waits for the test before every batch, and answers each row with its own first pixel."""

    def __init__(self) -> None:
        self.entered: thread_queue.Queue[Images] = thread_queue.Queue()
        self.permits: thread_queue.Queue[Exception | None] = thread_queue.Queue()
        self.short = False

    def __call__(self, images: Images) -> Outputs:
        self.entered.put(images.copy())
        failure = self.permits.get(timeout=WAIT)
        if failure is not None:
            raise failure
        values = images[:, 0, 0, :1].astype(np.float32)
        return Outputs(values, values[:-1] if self.short else values)

    def wait_inside(self) -> None:
        """Return once a batch has been formed and is inside the runtime."""
        self.entered.put(self.entered.get(timeout=WAIT))

    def open(self, failure: Exception | None = None) -> Images:
        """Let one batch through. Returns what it held."""
        images = self.entered.get(timeout=WAIT)
        self.permits.put(failure)
        return images


class Observer:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.runs: list[BatchRun] = []
        self.dropped: dict[str, int] = {}
        self.failures: list[BaseException] = []

    def batch_ran(self, run: BatchRun) -> None:
        self.runs.append(run)

    def items_dropped(self, reason: str, items: int) -> None:
        self.dropped[reason] = self.dropped.get(reason, 0) + items

    def batch_failed(self, error: BaseException) -> None:
        self.failures.append(error)


class Bench:
    """A batcher under test."""

    def __init__(self, *, sizes: tuple[int, ...] = (), slots: int = 1, prefetch: int = 0, **limits: float) -> None:
        self.gate = Gate()
        self.observer = Observer()
        self.now = 100.0
        times = BatchTimes({1: 1.0})
        self.queue = BatchQueue(QueueLimits(**limits), times.predict)  # type: ignore[arg-type]
        self.batcher = Batcher(
            self.queue,
            self.gate,
            times=times,
            observer=self.observer,
            allowed_batch_sizes=sizes,
            slots=slots,
            prefetch=prefetch,
            clock=lambda: self.now,
        )

    def submit(
        self, *values: int, deadline: float = math.inf, priority: Priority = Priority.NORMAL
    ) -> tuple[Item, Future[list[float]]]:
        """Queue one row for each value."""
        future: Future[list[float]] = Future()

        def done(outcome: Outputs | BaseException, runs: list[BatchRun]) -> None:
            if isinstance(outcome, Outputs):
                future.set_result(outcome.probabilities[:, 0].tolist())
            else:
                future.set_exception(outcome)

        images = np.array(values, np.uint8).reshape(-1, 1, 1, 1)
        one = Item(images, done, deadline=deadline, priority=priority)
        self.batcher.submit(one)
        return one, future


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench(max_batch_size=4, max_queue_rows=8)
    made.batcher.start()
    yield made
    closer = threading.Thread(target=made.batcher.close, args=(0.0,))
    closer.start()
    for _ in range(20):
        made.gate.permits.put(None)
    closer.join(WAIT)
    assert not closer.is_alive()


def test_batches_grow_while_a_slot_is_busy(bench: Bench) -> None:
    """What arrives during a run forms the next batch, and everyone gets his own rows."""
    futures = [bench.submit(7)[1]]
    bench.gate.wait_inside()
    futures += [bench.submit(value)[1] for value in (1, 2, 3)]
    assert len(bench.gate.open()) == 1
    assert len(bench.gate.open()) == 3
    assert [future.result(WAIT) for future in futures] == [[7.0], [1.0], [2.0], [3.0]]


def test_the_longest_run_is_that_of_the_batch_that_began_first(bench: Bench) -> None:
    """It tells of one that does not end; one that has failed runs no more."""
    assert bench.batcher.longest_run == 0
    _, future = bench.submit(7)
    bench.gate.wait_inside()
    bench.now += 3
    assert bench.batcher.longest_run == 3
    bench.gate.open(InternalError("broken"))
    with pytest.raises(InternalError):
        future.result(WAIT)
    assert bench.batcher.longest_run == 0


def test_a_large_request_comes_back_whole(bench: Bench) -> None:
    """Six rows through batches of four, in order."""
    _, future = bench.submit(1, 2, 3, 4, 5, 6)
    bench.gate.open()
    bench.gate.open()
    assert future.result(WAIT) == [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]


def test_a_failing_run_hurts_only_its_own_batch(bench: Bench) -> None:
    """The callers of the batch get an error without the runtime's words; the next batch runs."""
    _, broken = bench.submit(1)
    bench.gate.open(RuntimeError("secret"))
    with pytest.raises(InternalError, match=r"^the model failed to run$"):
        broken.result(WAIT)
    _, fine = bench.submit(2)
    bench.gate.open()
    assert fine.result(WAIT) == [2.0]
    assert [str(error) for error in bench.observer.failures] == ["secret"]


@pytest.mark.parametrize("failure", [None, RuntimeError("no memory")], ids=["answers", "errors"])
def test_an_answer_that_cannot_be_handed_over_hurts_nobody_else(bench: Bench, failure: Exception | None) -> None:
    """The callers behind it in its batch are answered, and the batches after it run."""

    def broken(outcome: Outputs | BaseException, runs: list[BatchRun]) -> None:
        raise RuntimeError("nobody there")

    first = bench.submit(7)[1]
    bench.gate.wait_inside()
    bench.batcher.submit(Item(np.zeros((1, 1, 1, 1), np.uint8), broken))
    mate = bench.submit(2)[1]
    bench.gate.open()
    assert len(bench.gate.open(failure)) == 2
    assert first.result(WAIT) == [7.0]
    if failure is None:
        assert mate.result(WAIT) == [2.0]
    else:
        with pytest.raises(InternalError):
            mate.result(WAIT)
    after = bench.submit(3)[1]
    bench.gate.open()
    assert after.result(WAIT) == [3.0]


def test_a_batch_whose_rows_cannot_be_brought_together_fails_alone(bench: Bench) -> None:
    """Without memory for a batch, say, its callers get an error, and the next batch runs."""
    first = bench.submit(7)[1]
    bench.gate.wait_inside()
    outcomes: list[Outputs | BaseException] = []
    for side in (1, 2):
        image = np.zeros((1, side, side, 1), np.uint8)
        bench.batcher.submit(Item(image, lambda outcome, runs: outcomes.append(outcome)))
    bench.gate.open()
    assert first.result(WAIT) == [7.0]
    after = bench.submit(3)[1]
    bench.gate.open()
    assert after.result(WAIT) == [3.0]
    assert [str(outcome) for outcome in outcomes] == ["the model failed to run"] * 2
    assert len(bench.observer.failures) == 1
    assert bench.batcher.in_flight_rows == 0


def test_too_few_outputs_are_an_error(bench: Bench) -> None:
    """A row without an answer must not get another row's."""
    bench.gate.short = True
    _, future = bench.submit(1, 2)
    bench.gate.open()
    with pytest.raises(InternalError, match="2, 1 rows for a batch of 2"):
        future.result(WAIT)


def test_a_caller_who_leaves_before_his_batch_never_runs(bench: Bench) -> None:
    """His rows cost nothing; his batch-mates are served."""
    _, running = bench.submit(1)
    bench.gate.wait_inside()
    gone, future = bench.submit(2)
    _, stays = bench.submit(3)
    bench.batcher.cancel(gone)
    with pytest.raises(CancelledError):
        future.result(WAIT)
    bench.gate.open()
    assert bench.gate.open()[:, 0, 0, 0].tolist() == [3]
    assert (running.result(WAIT), stays.result(WAIT)) == ([1.0], [3.0])
    assert bench.observer.dropped == {"cancelled": 1}


def test_a_caller_who_leaves_during_his_batch_hurts_nobody(bench: Bench) -> None:
    """His answer is thrown away; the others get theirs."""
    _, first = bench.submit(9)
    bench.gate.wait_inside()
    gone, future = bench.submit(1)
    _, mate = bench.submit(2)
    bench.gate.open()
    bench.gate.wait_inside()
    bench.batcher.cancel(gone)
    bench.gate.open()
    assert (first.result(WAIT), mate.result(WAIT)) == ([9.0], [2.0])
    with pytest.raises(CancelledError):
        future.result(WAIT)


def test_what_cannot_make_its_deadline_is_refused_at_once(bench: Bench) -> None:
    """One row takes a second here; half a second is not enough, and nothing is queued."""
    with pytest.raises(DeadlineError, match=r"about 1\.0000 s"):
        bench.submit(1, deadline=bench.now + 0.5)
    assert bench.batcher.waiting_rows == 0


def test_the_prediction_counts_what_is_ahead(bench: Bench) -> None:
    """A running batch and those that wait come first; a higher priority overtakes those that wait."""
    bench.submit(1)
    bench.gate.wait_inside()
    bench.submit(2, 3, 4, 5)  # takes four seconds, until 105
    with pytest.raises(DeadlineError):
        bench.submit(6, deadline=bench.now + 5.5)
    bench.submit(6, deadline=bench.now + 5.5, priority=Priority.HIGH)
    bench.gate.open()
    assert bench.gate.open()[:, 0, 0, 0].tolist() == [6, 2, 3, 4]
    bench.gate.open()


def test_an_expired_row_never_runs(bench: Bench) -> None:
    """It is answered when the batch forms, and counted."""
    bench.submit(1)
    bench.gate.wait_inside()
    _, late = bench.submit(2, deadline=bench.now + 5)
    bench.now += 6
    bench.gate.open()
    with pytest.raises(DeadlineError, match="when its turn came"):
        late.result(WAIT)
    assert bench.observer.dropped == {"expired": 1}


def test_a_full_queue_refuses(bench: Bench) -> None:
    """At once, with a hint."""
    bench.submit(1)
    bench.gate.wait_inside()
    bench.submit(*range(8))
    with pytest.raises(OverloadedError):
        bench.submit(1)
    for _ in range(3):
        bench.gate.open()


def test_batches_are_padded_to_allowed_sizes() -> None:
    """Three rows run as four; the fourth answer is nobody's."""
    bench = Bench(sizes=(1, 4), max_batch_size=4)
    bench.batcher.start()
    _, future = bench.submit(1, 2, 3)
    assert len(bench.gate.open()) == 4
    assert future.result(WAIT) == [1.0, 2.0, 3.0]
    bench.batcher.close(WAIT)
    assert [(run.rows, run.padded_rows) for run in bench.observer.runs] == [(3, 4)]


def test_several_slots_run_at_once() -> None:
    """Two batches are inside the runtime at the same time, and the pieces of a request find each other."""
    bench = Bench(slots=2, max_batch_size=2)
    bench.batcher.start()
    _, future = bench.submit(1, 2, 3, 4)
    inside = [bench.gate.entered.get(timeout=WAIT), bench.gate.entered.get(timeout=WAIT)]
    assert sorted(len(images) for images in inside) == [2, 2]
    bench.gate.permits.put(None)
    bench.gate.permits.put(None)
    assert future.result(WAIT) == [1.0, 2.0, 3.0, 4.0]
    bench.batcher.close(WAIT)


def test_a_prefetched_batch_is_formed_but_does_not_run() -> None:
    """With one slot and one prefetched batch, the second is taken from the queue while the first runs."""
    bench = Bench(prefetch=1, max_batch_size=1)
    bench.batcher.start()
    first = bench.submit(1)[1]
    bench.gate.wait_inside()
    second = bench.submit(2)[1]
    while bench.batcher.waiting_rows:  # until the prefetching thread has taken it
        threading.Event().wait(0.001)
    assert bench.gate.entered.qsize() == 1
    bench.gate.open()
    bench.gate.open()
    assert (first.result(WAIT), second.result(WAIT)) == ([1.0], [2.0])
    bench.batcher.close(WAIT)


def test_closing_runs_what_waits(bench: Bench) -> None:
    """Accepted requests are finished; new ones are refused."""
    futures = [bench.submit(1)[1]]
    bench.gate.wait_inside()
    futures.append(bench.submit(2)[1])
    closer = threading.Thread(target=bench.batcher.close, args=(WAIT,))
    closer.start()
    while bench.batcher.accepting:
        threading.Event().wait(0.001)
    with pytest.raises(UnavailableError):
        bench.submit(3)
    bench.gate.open()
    bench.gate.open()
    closer.join(WAIT)
    assert [future.result(WAIT) for future in futures] == [[1.0], [2.0]]


def test_closing_refuses_what_the_grace_does_not_suffice_for(bench: Bench) -> None:
    """Nobody hangs: the running batch is finished, the waiting request is told to go elsewhere."""
    _, running = bench.submit(1)
    bench.gate.wait_inside()
    _, waiting = bench.submit(2)
    refused: list[int] = []
    closer = threading.Thread(target=lambda: refused.append(bench.batcher.close(0.0)))
    closer.start()
    with pytest.raises(UnavailableError, match="before the request could run"):
        waiting.result(WAIT)
    bench.gate.open()
    closer.join(WAIT)
    assert running.result(WAIT) == [1.0]
    assert refused == [1]


def test_a_split_request_that_fails_is_answered_once(bench: Bench) -> None:
    """Its remaining rows are not run."""
    _, future = bench.submit(1, 2, 3, 4, 5)
    bench.gate.open(RuntimeError("broken"))
    with pytest.raises(InternalError):
        future.result(WAIT)
    _, after = bench.submit(6)
    assert bench.gate.open()[:, 0, 0, 0].tolist() == [6]
    assert after.result(WAIT) == [6.0]
