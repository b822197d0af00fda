"""Single images of concurrent threads travel as one RPC, and each caller gets its own answer."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import grpc
import numpy as np
import pytest

import convserve
from convserve import Classification, Client
from convserve.client import coalescing
from convserve.v1 import classification_pb2 as pb
from support.fake_server import FakeServer, Gate, first_bytes, refuse, refuse_images

HELD = 250


@pytest.fixture(autouse=True)
def _no_window(monkeypatch: pytest.MonkeyPatch) -> None:
    """Groups go when something returns or they are full; tests of the window set their own."""
    monkeypatch.setattr(coalescing, "WINDOW_SECONDS", 60.0)
    monkeypatch.setattr(coalescing, "BUSY_SECONDS", 60.0)


@pytest.fixture
def client(fake: FakeServer) -> Iterator[Client]:
    with Client(fake.target) as made:
        yield made


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(100) as made:
        yield made


class Crowd:
    """Callers that gather behind an RPC which the server holds."""

    def __init__(self, fake: FakeServer, client: Client, pool: ThreadPoolExecutor, **options: Any) -> None:
        """Occupy the lane of callers with these options."""
        self._fake, self._client, self._pool = fake, client, pool
        self._options = {"model": "m", **options}
        self.gate = Gate(HELD)
        fake.before = self.gate
        self.held = self.call(bytes([HELD]))
        self.gate.await_arrival()

    def call(self, image: Any, **options: Any) -> Future[Classification]:
        """Classify an image on another thread."""
        return self._pool.submit(lambda: self._client.classify(image, **{**self._options, **options}))

    def gather(self, *images: bytes, **options: Any) -> list[Future[Classification]]:
        """Have callers gather, one after the other; each is there, or done already, before the next one comes."""
        made = []
        for image in images:
            call = self.call(image, **options)
            until(lambda image=image, call=call: call.done() or image in self.gathered())
            made.append(call)
        return made

    def gathered(self) -> list[Any]:
        """Images that wait for the held RPC."""
        assert self._client._coalescer is not None
        lanes = list(self._client._coalescer._lanes._lanes.values())
        return [row.image for lane in lanes if lane.group is not None for row in list(lane.group.rows)]

    def sent(self) -> list[list[int]]:
        """First bytes of the images of each request after the held one."""
        return [first_bytes(request) for request in self._fake.requests[1:]]


def until(condition: Any) -> None:
    for _ in range(3000):
        if condition():
            return
        threading.Event().wait(0.01)
    raise AssertionError("it did not happen")


def indices(answers: list[Future[Classification]]) -> list[int]:
    return [answer.result(30).index for answer in answers]


def idle(client: Client) -> bool:
    assert client._coalescer is not None
    return len(client._coalescer._lanes) == 0


def test_callers_behind_an_rpc_travel_together(fake: FakeServer, client: Client, pool: ThreadPoolExecutor) -> None:
    """When it returns, in the order they came; afterwards nothing is left."""
    crowd = Crowd(fake, client, pool)
    answers = crowd.gather(*[bytes([value]) for value in range(20)])
    crowd.gate.open()
    assert indices([crowd.held, *answers]) == [HELD, *range(20)]
    assert crowd.sent() == [list(range(20))]
    until(lambda: idle(client))


def test_a_full_group_does_not_wait(fake: FakeServer, client: Client, pool: ThreadPoolExecutor) -> None:
    """64 rows are enough."""
    crowd = Crowd(fake, client, pool)
    answers = [crowd.call(bytes([value])) for value in range(64)]
    assert sorted(indices(answers)) == list(range(64))
    assert [len(rows) for rows in crowd.sent()] == [64]
    assert not crowd.held.done()
    crowd.gate.open()
    crowd.held.result(30)


@pytest.mark.parametrize("window", [0.0, 0.01])
def test_the_window_ends_the_wait(
    fake: FakeServer, client: Client, pool: ThreadPoolExecutor, window: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An RPC that takes long holds nobody."""
    monkeypatch.setattr(coalescing, "WINDOW_SECONDS", window)
    crowd = Crowd(fake, client, pool)
    answers = [crowd.call(bytes([value])) for value in range(10)]
    assert indices(answers) == list(range(10))
    assert not crowd.held.done()
    crowd.gate.open()
    crowd.held.result(30)


def test_the_watch_over_the_window_is_handed_on(
    fake: FakeServer, client: Client, pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the first of a group leaves, the next one sees the window end."""
    monkeypatch.setattr(coalescing, "WINDOW_SECONDS", 0.5)
    crowd = Crowd(fake, client, pool)
    (late,) = crowd.gather(b"\x01", timeout=0.05)
    (answer,) = crowd.gather(b"\x02", timeout=60)
    with pytest.raises(convserve.DeadlineError):
        late.result(30)
    assert answer.result(30).index == 2
    assert not crowd.held.done()
    crowd.gate.open()
    crowd.held.result(30)


def test_a_hanging_server_holds_nobody_for_long(
    fake: FakeServer, pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when every connection has an RPC under way."""
    monkeypatch.setattr(coalescing, "WINDOW_SECONDS", 0.0)
    monkeypatch.setattr(coalescing, "BUSY_SECONDS", 0.02)
    with Client(fake.target, connections=1) as client:
        crowd = Crowd(fake, client, pool)
        assert crowd.call(b"\x07").result(30).index == 7
        assert not crowd.held.done()
        crowd.gate.open()
        crowd.held.result(30)


def test_who_comes_back_first_waits_for_those_who_are_about_to(
    fake: FakeServer, client: Client, pool: ThreadPoolExecutor
) -> None:
    """They have their answers and only have to wake up; the last who does lets those go who came back."""
    crowd = Crowd(fake, client, pool)
    answers = crowd.gather(*[bytes([value]) for value in range(8)])
    assert client._coalescer is not None
    (lane,) = client._coalescer._lanes._lanes.values()
    assert lane.group is not None
    slow = lane.group.rows[-2].waiter  # woken last: the last makes the RPC
    gate, slow.gate = slow.gate, threading.Lock()  # nobody wakes it any more
    crowd.gate.open()
    assert indices([crowd.held, *answers[:6], answers[7]]) == [HELD, *range(6), 7]
    (later,) = crowd.gather(b"\x09")
    assert crowd.gathered() == [b"\x09"]
    gate.release()
    assert indices([answers[6], later]) == [6, 9]
    assert crowd.sent() == [list(range(8)), [9]]
    until(lambda: idle(client))


def test_pixels_travel_together_too(fake: FakeServer, client: Client, pool: ThreadPoolExecutor) -> None:
    """As one tensor."""
    held = np.full((2, 3, 1), HELD, np.uint8)
    gate = fake.before = Gate(HELD)
    first = pool.submit(client.classify, held, model="m")
    gate.await_arrival()
    answers = [pool.submit(client.classify, np.full((2, 3), value, np.uint8), model="m") for value in range(5)]
    until(
        lambda: (
            client._coalescer is not None
            and sum(len(lane.group.rows) for lane in client._coalescer._lanes._lanes.values() if lane.group is not None)
            == 5
        )
    )
    gate.open()
    assert sorted(indices(answers)) == list(range(5))
    assert first.result(30).index == HELD
    assert list(fake.requests[-1].packed.shape) == [5, 2, 3, 1]


def test_a_lone_caller_never_waits(fake: FakeServer, client: Client) -> None:
    """One call after the other makes one RPC each, although the window would last a minute."""
    assert [client.classify(bytes([value]), model="m").index for value in range(5)] == list(range(5))
    assert len(fake.requests) == 5


@pytest.mark.parametrize(
    "options", [{"version": 2}, {"version": "stable"}, {"top_k": 3}, {"explain": True}, {"model": "other"}]
)
def test_different_wishes_do_not_mix(
    fake: FakeServer, client: Client, pool: ThreadPoolExecutor, options: dict[str, Any]
) -> None:
    """A caller who wants something else goes at once."""
    crowd = Crowd(fake, client, pool)
    answers = crowd.gather(b"\x01", b"\x02")
    assert crowd.call(b"\x03", **options).result(30).index == 3
    crowd.gate.open()
    assert indices(answers) == [1, 2]
    assert crowd.sent() == [[3], [1, 2]]


def test_an_id_of_ones_own_travels_alone(fake: FakeServer, client: Client, pool: ThreadPoolExecutor) -> None:
    """It decides which version answers and finds the request in the log."""
    crowd = Crowd(fake, client, pool)
    found = crowd.call(b"\x03", request_id="order-66").result(30)
    assert found.request_id == "order-66"
    crowd.gate.open()
    crowd.held.result(30)


def test_a_large_image_travels_alone(fake: FakeServer, client: Client, pool: ThreadPoolExecutor) -> None:
    """It does not hold small ones up."""
    crowd = Crowd(fake, client, pool)
    assert crowd.call(b"\x03" * (coalescing.IMAGE_BYTES + 1)).result(30).index == 3
    crowd.gate.open()
    crowd.held.result(30)


def test_coalescing_can_be_turned_off(fake: FakeServer) -> None:
    """Every call is an RPC of its own."""
    barrier = threading.Barrier(8)

    def before(request: pb.ClassifyRequest, context: Any) -> None:
        barrier.wait(30)

    fake.before = before
    with Client(fake.target, coalesce=False) as client, ThreadPoolExecutor(8) as pool:
        answers = [pool.submit(client.classify, bytes([value]), model="m") for value in range(8)]
        assert indices(answers) == list(range(8))
    assert len(fake.requests) == 8


def test_one_bad_image_fails_only_its_caller(fake: FakeServer, client: Client, pool: ThreadPoolExecutor) -> None:
    """Its error reads as if it had travelled alone; the others are sent again without it."""
    crowd = Crowd(fake, client, pool)
    answers = crowd.gather(*[bytes([value]) for value in (1, 2, 99, 3, 98, 4)])
    fake.before = refuse_images(98, 99)  # the held call has passed
    crowd.gate.open()
    assert indices([answers[at] for at in (0, 1, 3, 5)]) == [1, 2, 3, 4]
    for at, value in ((2, 99), (4, 98)):
        with pytest.raises(convserve.InvalidRequestError) as caught:
            answers[at].result(30)
        assert str(caught.value) == f"encoded.images[0]: is a damaged {value}"
        assert caught.value.violations[0].field == "encoded.images[0]"
    until(lambda: idle(client))


def test_what_is_no_image_never_leaves_its_caller(fake: FakeServer, client: Client, pool: ThreadPoolExecutor) -> None:
    """It is found before the caller gathers."""
    crowd = Crowd(fake, client, pool)
    with pytest.raises(convserve.InvalidRequestError, match="array of float32"):
        crowd.call(np.zeros((2, 2), np.float32)).result(30)
    with pytest.raises(convserve.InvalidRequestError, match="number of classes"):
        crowd.call(b"\x01", top_k=-1).result(30)
    assert crowd.gathered() == []
    crowd.gate.open()
    crowd.held.result(30)


def test_an_error_of_the_request_is_everybodys(fake: FakeServer, client: Client, pool: ThreadPoolExecutor) -> None:
    """Each gets an exception of its own, so that tracebacks do not mix."""
    crowd = Crowd(fake, client, pool)
    answers = crowd.gather(*[bytes([value]) for value in range(8)])

    def before(request: pb.ClassifyRequest, context: Any) -> None:
        crowd.gate(request, context)
        if first_bytes(request)[0] != HELD:
            refuse(context, grpc.StatusCode.NOT_FOUND, "no model m")

    fake.before = before
    crowd.gate.open()
    errors = [answer.exception(30) for answer in answers]
    assert {str(error) for error in errors} == {"no model m"}
    assert len({id(error) for error in errors}) == 8


def test_a_late_caller_leaves_alone(fake: FakeServer, client: Client, pool: ThreadPoolExecutor) -> None:
    """It is told at its own deadline, is not sent any more, and takes nothing from the others."""
    crowd = Crowd(fake, client, pool)
    (first,) = crowd.gather(b"\x01", timeout=60)
    (late,) = crowd.gather(b"\x02", timeout=0.05)
    with pytest.raises(convserve.DeadlineError):
        late.result(30)
    crowd.gate.open()
    assert first.result(30).index == 1
    assert crowd.held.result(30).index == HELD
    assert crowd.sent() == [[1]]


def test_a_deadline_holds_while_the_rpc_is_under_way(
    fake: FakeServer, client: Client, pool: ThreadPoolExecutor
) -> None:
    """The RPC's deadline is the latest of its callers; the others are told at their own."""
    crowd = Crowd(fake, client, pool)
    patient, late = *crowd.gather(b"\xfa", timeout=20), *crowd.gather(b"\x02", timeout=1)
    second = Gate(HELD)
    left: list[float] = []

    def before(request: pb.ClassifyRequest, context: Any) -> None:
        left.append(context.time_remaining())
        second(request, context)

    fake.before = before
    crowd.gate.open()
    second.await_arrival()
    with pytest.raises(convserve.DeadlineError):
        late.result(30)
    assert not patient.done()
    second.open()
    assert patient.result(30).index == HELD
    assert crowd.sent() == [[HELD, 2]]
    assert 5 < left[0] <= 20


def test_when_all_are_late_nothing_is_sent(fake: FakeServer, client: Client, pool: ThreadPoolExecutor) -> None:
    """And the next callers are not disturbed."""
    crowd = Crowd(fake, client, pool)
    for answer in crowd.gather(b"\x01", b"\x02", b"\x03", timeout=0.05):
        with pytest.raises(convserve.DeadlineError):
            answer.result(30)
    assert crowd.gathered() == []
    (answer,) = crowd.gather(b"\x04")
    crowd.gate.open()
    assert answer.result(30).index == 4
    assert crowd.sent() == [[4]]


def test_a_failed_rpc_is_repeated_for_all(fake: FakeServer, client: Client, pool: ThreadPoolExecutor) -> None:
    """Together, as it was."""
    crowd = Crowd(fake, client, pool)
    answers = crowd.gather(b"\x01", b"\x02")

    def before(request: pb.ClassifyRequest, context: Any) -> None:
        crowd.gate(request, context)
        if len(fake.requests) == 2:
            refuse(context, grpc.StatusCode.UNAVAILABLE, "shutting down")

    fake.before = before
    crowd.gate.open()
    assert indices(answers) == [1, 2]
    assert crowd.sent() == [[1, 2], [1, 2]]


def test_images_do_not_wait_for_the_garbage_collector(
    fake: FakeServer, client: Client, pool: ThreadPoolExecutor
) -> None:
    """When the answers are there, the client holds nothing of the question."""
    crowd = Crowd(fake, client, pool)
    images = [np.full((1, 1, 1), value, np.uint8) for value in range(9)]
    kept = [weakref.ref(image) for image in images]
    gc.collect()
    gc.disable()
    try:
        answers = [crowd.call(image) for image in images]
        crowd.gate.open()
        assert indices(answers) == list(range(9))
        del images, answers
        until(lambda: not any(one() is not None for one in kept))
    finally:
        gc.enable()


def test_an_interrupted_driver_hands_over(
    fake: FakeServer, client: Client, pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C in the thread that makes the RPC for others; they get their answers all the same."""
    crowd = Crowd(fake, client, pool)
    coalescer = client._coalescer
    assert coalescer is not None
    answers = crowd.gather(b"\x01", b"\x02", b"\x03")
    send, interrupted = coalescer._send, threading.Event()

    def interrupt(images: Any, *rest: Any) -> list[Classification]:
        if len(images) == 3 and not interrupted.is_set():
            interrupted.set()
            raise KeyboardInterrupt
        return send(images, *rest)

    monkeypatch.setattr(coalescer, "_send", interrupt)
    crowd.gate.open()
    outcomes = [answer.exception(30) for answer in answers]
    assert [type(outcome) for outcome in outcomes].count(KeyboardInterrupt) == 1
    assert sorted(answer.result().index for answer in answers if not answer.exception()) in ([1, 2], [1, 3], [2, 3])
    until(lambda: idle(client))


def test_a_defect_reaches_everybody(fake: FakeServer, pool: ThreadPoolExecutor) -> None:
    """A token function that raises, for one; nobody is left waiting."""
    calls: list[int] = []

    def token() -> str:
        calls.append(1)
        if len(calls) > 1:
            raise LookupError("the vault is sealed")
        return "secret"

    with Client(fake.target, token=token) as client:
        crowd = Crowd(fake, client, pool)
        answers = crowd.gather(b"\x01", b"\x02")
        crowd.gate.open()
        for answer in answers:
            with pytest.raises(LookupError, match="sealed"):
                answer.result(30)
        until(lambda: idle(client))
    assert fake.metadata[0]["authorization"] == "Bearer secret"


def test_closing_ends_those_who_gather(fake: FakeServer, pool: ThreadPoolExecutor) -> None:
    """They are told, not left hanging."""
    client = Client(fake.target)
    crowd = Crowd(fake, client, pool)
    answers = crowd.gather(b"\x01", b"\x02")
    client.close()
    for answer in [crowd.held, *answers]:
        with pytest.raises(convserve.CancelledError, match="the client was closed"):
            answer.result(30)
    with pytest.raises(convserve.ClosedError, match="closed"):
        client.classify(b"\x01", model="m")


def test_a_server_that_takes_fewer_rows_gets_fewer(fake: FakeServer, client: Client, pool: ThreadPoolExecutor) -> None:
    """Coalescing never makes a call fail that would have succeeded alone."""
    crowd = Crowd(fake, client, pool)
    answers = crowd.gather(*[bytes([value]) for value in range(12)])

    def before(request: pb.ClassifyRequest, context: Any) -> None:
        crowd.gate(request, context)
        if len(first_bytes(request)) > 4:
            refuse(context, grpc.StatusCode.INVALID_ARGUMENT, "encoded.images: too many images came")

    fake.before = before
    crowd.gate.open()
    assert indices(answers) == list(range(12))
    assert client._coalescer is not None
    assert client._coalescer._lanes.max_rows <= 6
