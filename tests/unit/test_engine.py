"""Thousands of concurrent callers against the real engine and batcher, with a runtime that misbehaves."""

from __future__ import annotations

import math
import queue
import random
import threading
import time
from collections import Counter
from concurrent.futures import Future
from pathlib import Path
from unittest import mock

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from convserve import errors
from convserve import manifest as m
from convserve.arrays import Images
from convserve.batching import Batcher, BatchQueue, BatchTimes, Outputs, Priority, QueueLimits, Turns
from convserve.devices import Device
from convserve.drift import Drift
from convserve.engine import Done, Engine, Request, Result, Ticket
from convserve.errors import ConvserveError
from convserve.images import Decoded
from convserve.lifecycle import VersionState
from convserve.registry import LoadedVersion, Registry, VersionStatus
from convserve.routing import Routes
from support import versions


class Moody:
    """Answers each row with its own first four pixels; sometimes slow, sometimes broken."""

    provider = "CPUExecutionProvider"
    device: Device = "cpu"
    variant = "fp32"
    most_rows: int | None = None

    def __init__(self, seed: int, slow: float, broken: float) -> None:
        self._random = random.Random(seed)
        self._slow, self._broken = slow, broken
        self.rows = 0

    def run(self, images: Images) -> Outputs:
        self.rows += len(images)
        mood = self._random.random()
        if mood < self._slow:
            time.sleep(0.002)
        elif mood < self._slow + self._broken:
            raise RuntimeError("broken")
        values = images[:, 0, :4, 0].astype(np.float32)
        return Outputs(values, values)

    def trim(self) -> None:
        pass

    def close(self) -> None:
        pass


class Silent:
    """Counts drops."""

    def __init__(self) -> None:
        self.dropped: Counter[str] = Counter()

    def batch_ran(self, run: object) -> None:
        pass

    def items_dropped(self, reason: str, items: int) -> None:
        self.dropped[reason] += items

    def batch_failed(self, error: BaseException) -> None:
        pass


class Loop:
    """Submits for others and runs short batches itself, as a transport with one thread does."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._asked: queue.SimpleQueue[tuple[Request, Done, Future[Ticket]] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def submit(self, request: Request, done: Done) -> Ticket:
        ticket: Future[Ticket] = Future()
        self._asked.put((request, done, ticket))
        return ticket.result(30)

    def close(self) -> None:
        self._asked.put(None)
        self._thread.join(30)

    def _serve(self) -> None:
        turns = Turns()
        while True:
            try:
                asked = self._asked.get(block=not turns)
            except queue.Empty:
                turns.run_one()
                continue
            if asked is None:
                break
            request, done, ticket = asked
            try:
                ticket.set_result(self._engine.submit(request, done, turns))
            except ConvserveError as error:
                ticket.set_exception(error)
        while turns:
            turns.run_one()


def load(manifest: m.Manifest, runtime: Moody, slots: int = 2, **limits: float) -> LoadedVersion:
    """A version on this runtime, its threads running."""
    times = BatchTimes({1: 1e-4, 8: 2e-4})
    batcher = Batcher(
        BatchQueue(QueueLimits(**limits), times.predict),  # type: ignore[arg-type]
        runtime.run,
        times=times,
        observer=Silent(),
        slots=slots,
    )
    batcher.start()
    return LoadedVersion(
        manifest,
        "0" * 64,
        runtime,
        batcher,
        max_rows=64,
        drift=Drift(manifest.statistics),
        compared=lambda version, answer, shadow: None,
    )


def serve(directory: Path, runtime: Moody, slots: int = 2, **limits: float) -> tuple[Engine, LoadedVersion, Registry]:
    """An engine with one version on this runtime."""
    loaded = load(m.read(directory)[0], runtime, slots, **limits)
    registry = Registry()
    registry.publish(loaded, VersionStatus(VersionState.AVAILABLE))
    return Engine(registry, max_image_pixels=10_000), loaded, registry


EXPECTED = (errors.InternalError, errors.DeadlineError, errors.OverloadedError, errors.CancelledError)


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, 2**32),
    delay=st.sampled_from([0.0, 0.001]),
    size=st.integers(1, 16),
    slow=st.sampled_from([0.0, 0.1]),
    broken=st.sampled_from([0.0, 0.05]),
    looped=st.sampled_from([0, 1, 2]),
)
def test_every_caller_gets_his_own_rows_or_one_error(
    repository: Path, seed: int, delay: float, size: int, slow: float, broken: float, looped: int
) -> None:
    """Random sizes, deadlines, cancellations and priorities; nothing hangs, and the accounts return to zero.

    No caller, every other one, or all of them come through a loop that runs batches itself.
    """
    runtime = Moody(seed, slow, broken)
    engine, loaded, _ = serve(
        repository / "stripes/1",
        runtime,
        slots=1 if looped else 2,
        max_batch_size=size,
        max_queue_delay=0.0 if looped else delay,
        max_queue_rows=128,
    )
    loop = Loop(engine)
    outcomes: Counter[str] = Counter()
    wrong: list[str] = []
    callers, calls = 16, 60

    def call(caller: int) -> None:
        rng = random.Random(seed * 1000 + caller)
        numpy_rng = np.random.default_rng(rng.getrandbits(32))
        for _ in range(calls):
            images = numpy_rng.integers(0, 256, (rng.randint(1, 12), 8, 8, 1), dtype=np.uint8)
            done = threading.Event()
            answers: list[Result | ConvserveError] = []

            def reply(
                outcome: Result | ConvserveError,
                answers: list[Result | ConvserveError] = answers,
                done: threading.Event = done,
            ) -> None:
                answers.append(outcome)
                done.set()

            request = Request(
                "stripes",
                images,
                "packed",
                deadline=time.monotonic() + rng.choice([0.0005, 0.01, math.inf]),
                priority=rng.choice(list(Priority)),
            )
            try:
                through = loop if looped and caller % (3 - looped) == 0 else engine
                ticket = through.submit(request, reply)
            except EXPECTED as error:
                outcomes[type(error).__name__] += 1
                continue
            if rng.random() < 0.1:
                ticket.cancel()
            if not done.wait(30):
                wrong.append("hung")
                return
            (outcome,) = answers
            if isinstance(outcome, ConvserveError):
                if not isinstance(outcome, EXPECTED):
                    wrong.append(repr(outcome))
                outcomes[type(outcome).__name__] += 1
            else:
                outcomes["answered"] += 1
                if not np.array_equal(outcome.outputs.probabilities, images[:, 0, :4, 0].astype(np.float32)):
                    wrong.append("somebody else's rows, or a wrong order")
                if sum(run.item_rows for run in outcome.runs) != len(images):
                    wrong.append("the batches do not add up")

    threads = [threading.Thread(target=call, args=(caller,)) for caller in range(callers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    loop.close()
    assert wrong == []
    assert outcomes.total() == callers * calls
    assert outcomes["answered"] > 0
    assert loaded.unload(5) == 0
    assert (loaded.batcher.waiting_rows, loaded.batcher.in_flight_rows, loaded.users) == (0, 0, 0)


def test_a_version_is_not_freed_while_somebody_holds_it(repository: Path) -> None:
    """Unloading waits for the last borrower."""
    engine, loaded, registry = serve(repository / "stripes/1", Moody(0, 0, 0), max_batch_size=4)
    assert engine is not None
    held = registry.borrow("stripes", None)
    registry.withdraw("stripes", 1)
    unloading = threading.Thread(target=loaded.unload, args=(30,))
    unloading.start()
    unloading.join(0.2)
    assert unloading.is_alive()
    held.release()
    unloading.join(10)
    assert not unloading.is_alive()


def test_whoever_holds_a_version_is_answered_by_it(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A request whose files are being decoded while its version is replaced is not refused for that."""
    engine, loaded, registry = serve(repository / "stripes/1", Moody(0, 0, 0), max_batch_size=4)
    begun, go_on = threading.Event(), threading.Event()
    decoded = Decoded(np.zeros((8, 8, 1), np.uint8), ())

    def decode(*_: object, **__: object) -> Decoded:
        begun.set()
        assert go_on.wait(30)
        return decoded

    monkeypatch.setattr("convserve.images.decode", decode)
    answered: Future[object] = Future()
    caller = threading.Thread(target=engine.submit, args=(Request("stripes", [b"file"], "f"), answered.set_result))
    caller.start()
    assert begun.wait(30)
    registry.withdraw("stripes", 1)
    refused: list[int] = []
    unloading = threading.Thread(target=lambda: refused.append(loaded.unload(30)))
    unloading.start()
    unloading.join(0.2)
    go_on.set()
    assert isinstance(answered.result(30), Result)
    for thread in (caller, unloading):
        thread.join(30)
    assert refused == [0]


def test_files_that_nobody_waits_for_are_not_decoded(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under load a file waits for a thread first; decoding it when its time is up would take the others' time."""
    engine, loaded, _ = serve(repository / "stripes/1", Moody(0, 0, 0), max_batch_size=4)
    decode = mock.Mock()
    monkeypatch.setattr("convserve.images.decode", decode)
    with pytest.raises(errors.DeadlineError, match=r"before f\[0\] was decoded"):
        engine.submit(Request("stripes", [b"file"], "f", deadline=time.monotonic()), lambda outcome: None)
    assert not decode.called
    assert loaded.users == 0
    loaded.unload(5)


def test_so_many_files_are_decoded_at_a_time(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each may hold a hundred times the memory that its file took to send."""
    _, loaded, registry = serve(repository / "stripes/1", Moody(0, 0, 0), max_batch_size=4)
    engine = Engine(registry, max_image_pixels=10_000, decoders=2)
    under_way = threading.Semaphore(2)
    too_many = threading.Event()

    def decode(*_: object, **__: object) -> Decoded:
        if not under_way.acquire(blocking=False):
            too_many.set()
            return Decoded(np.zeros((8, 8, 1), np.uint8), ())
        time.sleep(0.01)
        under_way.release()
        return Decoded(np.zeros((8, 8, 1), np.uint8), ())

    monkeypatch.setattr("convserve.images.decode", decode)
    answered: list[Future[object]] = [Future() for _ in range(8)]
    callers = [
        threading.Thread(target=engine.submit, args=(Request("stripes", [b"a", b"b"], "f"), one.set_result))
        for one in answered
    ]
    for caller in callers:
        caller.start()
    assert all(isinstance(one.result(30), Result) for one in answered)
    for caller in callers:
        caller.join(30)
    assert not too_many.is_set()
    loaded.unload(5)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((1, 8, 8), np.uint8), "images are 1×8×8; stripes version 1 takes 8×8×1"),
        (np.zeros((65, 8, 8, 1), np.uint8), "65 images came; one request takes 1 to 64"),
        ([], "0 images came"),
        ([b"junk"], "field[0]"),
    ],
)
def test_bad_images_are_refused_and_nothing_is_held(repository: Path, images: object, message: str) -> None:
    """The handle is given back when a request is refused."""
    engine, loaded, _ = serve(repository / "stripes/1", Moody(0, 0, 0), max_batch_size=4)
    with pytest.raises(errors.InvalidRequestError) as refused:
        engine.submit(Request("stripes", images, "field"), lambda outcome: None)  # type: ignore[arg-type]
    assert message in str(refused.value)
    assert loaded.users == 0
    loaded.unload(5)


def test_image_files_come_back_with_what_was_done(repository: Path) -> None:
    """Decoding steps travel with the result."""
    import io

    from PIL import Image

    engine, loaded, _ = serve(repository / "stripes/1", Moody(0, 0, 0), max_batch_size=4)
    file = io.BytesIO()
    Image.fromarray(versions.random_images(1)[0, :, :, 0]).resize((16, 16)).save(file, "PNG")
    answers: list[Result | ConvserveError] = []
    done = threading.Event()
    engine.submit(Request("stripes", [file.getvalue()], "f"), lambda outcome: (answers.append(outcome), done.set())[0])  # type: ignore[func-returns-value]
    assert done.wait(10)
    (result,) = answers
    assert isinstance(result, Result)
    assert "resized 16x16 to 8x8" in result.decoding[0]
    loaded.unload(5)


@pytest.mark.parametrize(("height", "copies"), [(8, 1), (4, 0)])
def test_a_shadow_is_asked_only_what_it_takes(repository: Path, height: int, copies: int) -> None:
    """Images of another shape would break the batches of those who call the shadow's version by its number."""
    engine, loaded, registry = serve(repository / "stripes/1", Moody(0, 0, 0), max_batch_size=4)
    runtime = Moody(0, 0, 0)
    manifest = msgspec.structs.replace(
        loaded.manifest, version=2, input=m.InputSpec(height=height, width=8, channels=1)
    )
    shadow = load(manifest, runtime, max_batch_size=4)
    registry.publish(shadow, VersionStatus(VersionState.AVAILABLE))
    registry.set_routes("stripes", Routes(aliases={"stable": 1, "canary": 2}, shadow="canary"))
    answered: Future[object] = Future()
    engine.submit(Request("stripes", versions.random_images(1), "packed"), answered.set_result)
    assert isinstance(answered.result(30), Result)
    for version in (loaded, shadow):
        version.unload(30)
    assert runtime.rows == copies
    assert shadow.users == 0
