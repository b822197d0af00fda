"""The synchronous client against a server of this process."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

import convserve
from convserve import Client, FieldViolation, Prediction, Retry
from convserve.client.settings import RPCS_IN_FLIGHT
from convserve.v1 import classification_pb2 as pb
from convserve.v1 import error_details_pb2, model_pb2
from support.fake_server import FakeServer, first_bytes, refuse, refuse_images, running


def images(*values: int) -> list[bytes]:
    return [bytes([value, 1, 2]) for value in values]


def wait_until_given_up(request: pb.ClassifyRequest, context: Any) -> None:
    gone = threading.Event()
    assert not context.add_callback(gone.set) or gone.wait(30)  # False: gone already


def test_an_image_is_classified(fake: FakeServer) -> None:
    """The result holds everything the reply says."""
    with Client(fake.target) as client:
        found = client.classify(b"\x05abc", model="digits", version="stable", top_k=2)
    assert (found.label, found.index, found.probability) == ("class 5", 5, 0.5)
    assert found.top == (Prediction("class 5", 5, 0.5), Prediction("class 6", 6, 0.25))
    assert (found.model, found.model_version) == ("digits", 4)
    assert found.decoding == ("resized 9x9 to 1x1",)
    assert found.batch is None
    (request,) = fake.requests
    assert (request.model, request.alias, request.top_k, request.explain) == ("digits", "stable", 2, False)
    assert request.encoded.images == [b"\x05abc"]


def test_an_explained_image_tells_its_batch(fake: FakeServer) -> None:
    """`explain` travels, and the batch comes back."""
    with Client(fake.target) as client:
        found = client.classify(np.full((2, 2), 9, np.uint8), model="digits", explain=True)
    assert found.batch is not None
    assert (found.batch.rows, found.batch.release_reason) == (2, "full")


def test_every_request_has_an_id(fake: FakeServer) -> None:
    """A new one for each call, or the caller's own."""
    with Client(fake.target) as client:
        one = client.classify(b"\x01", model="m")
        two = client.classify(b"\x01", model="m")
        own = client.classify(b"\x01", model="m", request_id="order-66")
    assert [data["x-request-id"] for data in fake.metadata] == [one.request_id, two.request_id, "order-66"]
    assert one.request_id != two.request_id
    assert len(one.request_id) == 32
    assert own.request_id == "order-66"


@pytest.mark.parametrize("request_id", ["line\n", "gr\u00fcn", "x" * 129])
def test_an_id_that_cannot_travel_is_refused(fake: FakeServer, request_id: str) -> None:
    """By every call, before anything is sent; the server would not take it over, and gRPC refuses some."""
    with Client(fake.target) as client:
        for call in (client.classify, client.classify_batch, client.classify_iter):
            with pytest.raises(convserve.InvalidRequestError, match=r"request_id: .* printable ASCII"):
                call([b"\x01"], model="m", request_id=request_id)
    assert fake.requests == []


def test_a_token_that_cannot_travel_is_refused_without_being_shown(fake: FakeServer) -> None:
    """As a file's last line break; a function is asked when the call is made."""
    with Client(fake.target, token=lambda: "secret\n") as client:
        with pytest.raises(convserve.ConfigError, match="strip it") as refused:
            client.classify(b"\x01", model="m")
        assert "secret" not in str(refused.value)
    assert fake.requests == []


def test_many_images_come_back_in_order(fake: FakeServer) -> None:
    """Also when later RPCs are answered before earlier ones."""
    values = np.random.default_rng(0).integers(0, 256, 300, dtype=np.uint8)
    second_is_answered = threading.Event()

    def first_waits(request: pb.ClassifyRequest, context: Any) -> None:
        if first_bytes(request)[0] == values[0]:
            assert second_is_answered.wait(30)
        else:
            second_is_answered.set()

    fake.before = first_waits
    with Client(fake.target) as client:
        found = client.classify_batch(values[:, None, None], model="m")
    assert [one.index for one in found] == values.tolist()
    assert len(fake.requests) == 5


def test_rpcs_of_a_batch_are_told_apart(fake: FakeServer) -> None:
    """Each has an id of its own, made of the caller's."""
    with Client(fake.target) as client:
        client.classify_batch(images(*[1] * 130), model="m", request_id="job")
    assert sorted(str(data["x-request-id"]) for data in fake.metadata) == ["job", "job-128", "job-64"]


def test_only_some_rpcs_are_under_way(fake: FakeServer) -> None:
    """A big batch leaves room in the server's queue for others."""
    lock, gate = threading.Lock(), threading.Event()
    active: list[int] = []
    most = 0

    def count(request: pb.ClassifyRequest, context: Any) -> None:
        nonlocal most
        with lock:
            active.append(1)
            most = max(most, len(active))
            if len(active) == RPCS_IN_FLIGHT:
                gate.set()
        assert gate.wait(30)
        with lock:
            active.pop()

    fake.before = count
    with Client(fake.target) as client:
        found = client.classify_batch(images(*[1] * 64 * 12), model="m")
    assert len(found) == 64 * 12
    assert most == RPCS_IN_FLIGHT


def test_no_images_make_no_rpc(fake: FakeServer) -> None:
    """An empty batch is not an error."""
    with Client(fake.target) as client:
        assert client.classify_batch([], model="m") == []
    assert fake.requests == []


def test_messages_stay_below_the_limit() -> None:
    """A batch larger than a message is split; the server never sees one that is too large."""
    with running(max_message_bytes=100_000) as fake, Client(fake.target, max_message_bytes=100_000) as client:
        found = client.classify_batch([bytes([value]) * 30_000 for value in range(10)], model="m")
    assert [one.index for one in found] == list(range(10))
    assert len(fake.requests) == 4


def test_a_message_beyond_the_servers_limit_says_how_to_raise_it() -> None:
    """Its status is RESOURCE_EXHAUSTED, but waiting would not help."""
    with (
        running(max_message_bytes=10_000) as fake,
        Client(fake.target) as client,
        pytest.raises(convserve.InvalidRequestError, match=r"the server's limits\.max_message_bytes"),
    ):
        client.classify(bytes(20_000), model="m")


def test_one_bad_image_is_named_by_its_position(fake: FakeServer) -> None:
    """Positions count from the caller's first image, whichever RPC it travelled in."""
    fake.before = refuse_images(99)
    with Client(fake.target) as client, pytest.raises(convserve.InvalidRequestError) as caught:
        client.classify_batch(images(*[1] * 70, 99, 1), model="m")
    assert str(caught.value) == "encoded.images[70]: is a damaged 99"
    assert caught.value.violations == (FieldViolation("encoded.images[70]", "is a damaged 99"),)
    assert caught.value.request_id.endswith("-64")
    assert caught.value.request_id in {data["x-request-id"] for data in fake.metadata}


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (grpc.StatusCode.INVALID_ARGUMENT, convserve.InvalidRequestError),
        (grpc.StatusCode.NOT_FOUND, convserve.NotFoundError),
        (grpc.StatusCode.FAILED_PRECONDITION, convserve.VersionNotAvailableError),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, convserve.OverloadedError),
        (grpc.StatusCode.DEADLINE_EXCEEDED, convserve.DeadlineError),
        (grpc.StatusCode.UNAVAILABLE, convserve.UnavailableError),
        (grpc.StatusCode.UNAUTHENTICATED, convserve.UnauthenticatedError),
        (grpc.StatusCode.PERMISSION_DENIED, convserve.PermissionDeniedError),
        (grpc.StatusCode.CANCELLED, convserve.CancelledError),
        (grpc.StatusCode.UNIMPLEMENTED, convserve.UnsupportedError),
        (grpc.StatusCode.INTERNAL, convserve.InternalError),
        (grpc.StatusCode.UNKNOWN, convserve.InternalError),
        (grpc.StatusCode.DATA_LOSS, convserve.InternalError),
    ],
)
def test_every_status_has_its_class(
    fake: FakeServer, code: grpc.StatusCode, kind: type[convserve.ConvserveError]
) -> None:
    """The server's sentence, and the id under which its log tells more; alike for one image and for many."""
    fake.before = lambda request, context: refuse(context, code, "the reason")
    with Client(fake.target, retry=None) as client:
        with pytest.raises(convserve.ConvserveError) as one:
            client.classify(b"\x01", model="m", request_id="a")
        with pytest.raises(convserve.ConvserveError) as many:
            client.classify_batch(images(1, 2), model="m", request_id="b")
    assert (type(one.value), str(one.value), one.value.request_id) == (kind, "the reason", "a")
    assert (type(many.value), str(many.value), many.value.request_id) == (kind, "the reason", "b")


def test_overload_says_when_to_come_back(fake: FakeServer) -> None:
    """RetryInfo becomes seconds."""
    details = error_details_pb2.RetryInfo()
    details.retry_delay.FromMilliseconds(1250)
    fake.before = lambda request, context: refuse(
        context, grpc.StatusCode.RESOURCE_EXHAUSTED, "queue full", "RetryInfo", details
    )
    with Client(fake.target, retry=None) as client, pytest.raises(convserve.OverloadedError) as caught:
        client.classify(b"\x01", model="m")
    assert caught.value.retry_after_seconds == 1.25


@pytest.mark.parametrize("part", ["all", "BadRequest", "RetryInfo"])
def test_unreadable_details_do_not_hide_the_status(fake: FakeServer, part: str) -> None:
    """A proxy may put anything there."""
    status = error_details_pb2.ErrorStatus(code=5)
    status.details.add(type_url=f"type.googleapis.com/google.rpc.{part}", value=b"\xff\xff\xff")
    details = b"\xff\xff\xff" if part == "all" else status.SerializeToString()

    def before(request: pb.ClassifyRequest, context: Any) -> None:
        context.set_trailing_metadata((("grpc-status-details-bin", details),))
        context.abort(grpc.StatusCode.NOT_FOUND, "no model m")

    fake.before = before
    with Client(fake.target) as client, pytest.raises(convserve.NotFoundError, match="no model m"):
        client.classify(b"\x01", model="m")


def test_a_server_that_is_not_there_is_unavailable() -> None:
    """The error comes at once and names the address."""
    with running() as fake:
        target = fake.target
    with Client(target, retry=None) as client:
        with pytest.raises(convserve.UnavailableError, match=target):
            client.classify(b"\x01", model="m")
        with pytest.raises(convserve.UnavailableError):
            client.health()


@pytest.mark.parametrize("by_client", [True, False])
def test_a_deadline_is_kept(fake: FakeServer, by_client: bool) -> None:
    """A server that hangs costs no more than the timeout, the client's or the call's own."""
    fake.before = wait_until_given_up
    with Client(fake.target, timeout=0.05 if by_client else 60) as client:
        with pytest.raises(convserve.DeadlineError):
            client.classify(b"\x01", model="m", timeout=None if by_client else 0.05)
        with pytest.raises(convserve.DeadlineError):
            client.classify_batch(images(1), model="m", timeout=None if by_client else 0.05)


def test_a_timeout_covers_the_whole_batch(fake: FakeServer) -> None:
    """The RPCs of a batch share the time that its caller gave."""
    left = []
    fake.before = lambda request, context: left.append(context.time_remaining())
    with Client(fake.target) as client:
        client.classify_batch(images(*[1] * 64 * 8), model="m", timeout=20)
    assert max(left) <= 20
    assert left != sorted(left)


def test_a_failure_gives_the_other_rpcs_up(fake: FakeServer) -> None:
    """The server is not left computing what nobody waits for."""
    gone = threading.Semaphore(0)
    others = threading.Barrier(RPCS_IN_FLIGHT)

    def before(request: pb.ClassifyRequest, context: Any) -> None:
        others.wait(30)
        if 99 in first_bytes(request):
            context.abort(grpc.StatusCode.NOT_FOUND, "no model")
        wait_until_given_up(request, context)
        gone.release()

    fake.before = before
    with Client(fake.target) as client:
        with pytest.raises(convserve.NotFoundError):
            client.classify_batch(images(99, *[1] * 64 * 5), model="m")
        for _ in range(RPCS_IN_FLIGHT - 1):
            assert gone.acquire(timeout=30)


def test_closing_ends_calls_under_way(fake: FakeServer) -> None:
    """A thread that waits for an answer is told, not left hanging."""
    arrived = threading.Semaphore(0)

    def before(request: pb.ClassifyRequest, context: Any) -> None:
        arrived.release()
        wait_until_given_up(request, context)

    fake.before = before
    client = Client(fake.target)
    with ThreadPoolExecutor(2) as pool:
        one = pool.submit(client.classify, b"\x01", model="m")
        many = pool.submit(client.classify_batch, images(1), model="m")
        for _ in range(2):
            assert arrived.acquire(timeout=30)
        client.close()
        for call in (one, many):
            with pytest.raises(convserve.CancelledError):
                call.result(30)


def test_many_threads_share_a_client(fake: FakeServer) -> None:
    """Each gets the answer to its own image."""
    with Client(fake.target) as client, ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda value: client.classify(bytes([value]), model="m").index, range(200)))
    assert found == list(range(200))


def test_a_list_of_images_is_answered_with_a_list(fake: FakeServer) -> None:
    """One call for one or many."""
    with Client(fake.target) as client:
        found = client.classify(images(1, 2, 3), model="m")
        assert [one.index for one in found] == [1, 2, 3]
        assert client.classify((), model="m") == []
    assert len(fake.requests) == 1


def test_a_stream_is_read_as_it_is_used(fake: FakeServer) -> None:
    """An endless one takes bounded memory, keeps its order, and ends when nobody wants more."""
    taken = 0

    def endless() -> Any:
        nonlocal taken
        while True:
            taken += 1
            yield bytes([taken % 200])

    with Client(fake.target) as client:
        results = client.classify_iter(endless(), model="m", batch_size=8)
        seen = [next(results).index for _ in range(100)]
        assert seen == [index % 200 for index in range(1, 101)]
        assert taken <= 100 + 8 * (RPCS_IN_FLIGHT + 1)
        results.close()
        assert [one.index for one in client.classify_iter(iter(images(1, 2)), model="m")] == [1, 2]


def test_a_stream_gives_what_came_before_an_image_that_cannot_be_read(fake: FakeServer, tmp_path: Path) -> None:
    """Or before its source failed. A batch, which is all or nothing, sends no rest of a request."""

    def source(last: Any) -> Iterator[Any]:
        yield from images(1, 2, 3, 4, 5)
        if isinstance(last, Exception):
            raise last
        yield last

    with Client(fake.target) as client:
        for last, kind in ((tmp_path / "no.png", OSError), (3, convserve.InvalidRequestError), (KeyError(), KeyError)):
            results = client.classify_iter(source(last), model="m", batch_size=2)
            assert [next(results).index for _ in range(5)] == [1, 2, 3, 4, 5]
            with pytest.raises(kind):
                next(results)
        fake.requests.clear()
        with pytest.raises(KeyError):
            client.classify_batch(source(KeyError()), model="m")
        assert not fake.requests


@pytest.mark.parametrize("call", ["classify", "classify_batch"])
def test_a_failed_request_does_not_wait_for_the_garbage_collector(fake: FakeServer, call: str) -> None:
    """An overloaded server refuses many, and each may have megabytes."""
    fake.before = refuse_images(99)
    with Client(fake.target) as client:
        gc.disable()
        try:
            try:
                getattr(client, call)(bytes([99]) if call == "classify" else [bytes([99])], model="m")
            except convserve.InvalidRequestError as error:
                kept = weakref.ref(error)  # by its traceback, what the frames hold
            assert kept() is None
        finally:
            gc.enable()


def test_a_stream_gives_what_came_before_a_failure(fake: FakeServer) -> None:
    """Then its error, with the position in the stream."""
    fake.before = refuse_images(99)
    with Client(fake.target) as client:
        results = client.classify_iter(images(1, 2, 3, 4, 99, 6), model="m", batch_size=2)
        assert [next(results).index for _ in range(4)] == [1, 2, 3, 4]
        with pytest.raises(convserve.InvalidRequestError, match=r"encoded\.images\[4\]"):
            next(results)


@pytest.mark.parametrize(
    "arguments",
    [
        {"images": b"\x01"},
        {"batch_size": 0},
        {"batch_size": 2.5},
        {"batch_size": "2"},
        {"timeout": -1.0},
        {"top_k": -1},
    ],
)
def test_a_wrong_stream_is_refused_before_it_begins(fake: FakeServer, arguments: dict[str, Any]) -> None:
    """By the call, not by the first result."""
    with Client(fake.target) as client, pytest.raises(convserve.InvalidRequestError):
        client.classify_iter(**{"images": [], "model": "m", **arguments})


def failing(fake: FakeServer, code: grpc.StatusCode, times: int = 10**9) -> None:
    """Have the first calls end with a status."""

    def before(request: pb.ClassifyRequest, context: Any) -> None:
        if len(fake.requests) <= times:
            refuse(context, code, "not now")

    fake.before = before


@pytest.mark.parametrize("many", [False, True])
@pytest.mark.parametrize("code", ["UNAVAILABLE", "RESOURCE_EXHAUSTED", "CANCELLED"])
def test_failures_that_pass_are_not_seen(fake: FakeServer, code: str, many: bool) -> None:
    """The RPC is repeated under the same id until it succeeds."""
    failing(fake, grpc.StatusCode[code], times=3)
    with Client(fake.target, retry=Retry(initial_seconds=0.001)) as client:
        found = client.classify(images(1), model="m")[0] if many else client.classify(b"\x01", model="m")
    assert found.index == 1
    assert len(fake.requests) == 4
    assert len({data["x-request-id"] for data in fake.metadata}) == 1


def test_the_servers_hint_is_honoured(fake: FakeServer) -> None:
    """The next attempt comes no earlier than it asks."""
    details = error_details_pb2.RetryInfo()
    details.retry_delay.FromMilliseconds(80)
    times: list[float] = []

    def before(request: pb.ClassifyRequest, context: Any) -> None:
        times.append(time.monotonic())
        if len(times) == 1:
            refuse(context, grpc.StatusCode.RESOURCE_EXHAUSTED, "queue full", "RetryInfo", details)

    fake.before = before
    with Client(fake.target) as client:
        client.classify(b"\x01", model="m")
    assert times[1] - times[0] >= 0.08


def test_repetitions_end_before_the_deadline(fake: FakeServer) -> None:
    """The caller gets the server's last word, or that time is up if the last attempt was cut short; and in time."""
    failing(fake, grpc.StatusCode.UNAVAILABLE)
    with Client(fake.target, retry=Retry(attempts=1000, initial_seconds=0.01, max_seconds=0.02)) as client:
        assert client.health()  # connected
        started = time.monotonic()
        with pytest.raises((convserve.UnavailableError, convserve.DeadlineError)):
            client.classify(b"\x01", model="m", timeout=1.0)
        assert time.monotonic() - started < 5  # not a measurement: attempts=1000 would take longer
    assert len(fake.requests) > 3


def test_repetitions_end_with_the_budget(fake: FakeServer) -> None:
    """All calls of a client share it: a server that fails gets little more load than from single attempts."""
    failing(fake, grpc.StatusCode.UNAVAILABLE)
    with Client(fake.target, retry=Retry(attempts=3, initial_seconds=0.001, budget=5)) as client:
        for _ in range(20):
            with pytest.raises(convserve.UnavailableError):
                client.classify(b"\x01", model="m")
    assert len(fake.requests) == 20 + 5


def test_closing_ends_a_wait_between_attempts(fake: FakeServer) -> None:
    """A thread that would try again later is told."""
    refused = threading.Event()

    def before(request: pb.ClassifyRequest, context: Any) -> None:
        refused.set()
        refuse(context, grpc.StatusCode.UNAVAILABLE, "not now")

    fake.before = before
    client = Client(fake.target, retry=Retry(initial_seconds=60, max_seconds=60), timeout=600)
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(lambda: client.classify(b"\x01", model="m"))
        assert refused.wait(30)
        client.close()
        with pytest.raises(convserve.CancelledError, match="the client was closed"):
            call.result(30)


@pytest.mark.parametrize("health_check", [True, False])
def test_servers_that_are_not_serving_are_left_out(health_check: bool) -> None:
    """Of two addresses, the one that says so gets no calls, unless health is not asked for."""
    with running() as good, running() as bad:
        bad.say(b"\x08\x02")
        target = f"ipv4:{good.target},{bad.target}"
        with Client(target, health_check=health_check, retry=None) as client:
            for _ in range(40):
                client.classify(b"\x01", model="m")
        assert len(good.requests) + len(bad.requests) == 40
        assert bool(bad.requests) is not health_check


def test_a_server_that_says_not_serving_can_be_asked_why() -> None:
    """Classifying is refused; health and models are answered."""
    with running() as fake, Client(fake.target, retry=None) as client:
        fake.say(b"\x08\x02")
        with pytest.raises(convserve.UnavailableError):
            client.classify(b"\x01", model="m")
        assert client.health() is False
        assert client.models() == []


def test_waiting_for_a_server(fake: FakeServer) -> None:
    """With wait_for_ready, a call lasts until the server is there, or its deadline."""
    with running() as gone:
        target = gone.target
    with Client(target, wait_for_ready=True) as client, ThreadPoolExecutor(1) as pool:
        with pytest.raises(convserve.DeadlineError):
            client.classify(b"\x01", model="m", timeout=0.05)
        call = pool.submit(lambda: client.classify(b"\x05", model="m", timeout=60))
        with running(port=int(target.rpartition(":")[2])):
            assert call.result(60).index == 5


@pytest.mark.parametrize("form", ["{}", "dns:///localhost:{port}", "ipv4:{}", "ipv4:{},{dead}"])
def test_every_form_of_a_target(fake: FakeServer, form: str) -> None:
    """Names are resolved, and one address of several is enough."""
    with running() as gone:
        dead = gone.target
    target = form.format(fake.target, port=fake.target.rpartition(":")[2], dead=dead)
    with Client(target) as client:
        assert [client.classify(bytes([value]), model="m").index for value in range(10)] == list(range(10))


def test_a_timeout_may_be_infinite(fake: FakeServer) -> None:
    """For those who want none."""
    with Client(fake.target, timeout=float("inf")) as client:
        assert client.classify(b"\x01", model="m").index == 1
        assert client.classify(images(1), model="m")[0].index == 1


def test_a_closed_client_says_so(fake: FakeServer) -> None:
    """Every call; and closing twice is no trouble."""
    client = Client(fake.target)
    client.classify(b"\x01", model="m")
    client.close()
    client.close()
    for call in (
        lambda: client.classify(b"\x01", model="m"),
        lambda: client.classify_batch([], model="m"),
        lambda: client.classify_iter([], model="m"),
        client.models,
        lambda: client.model("m"),
        client.health,
    ):
        with pytest.raises(convserve.ClosedError, match="the client is closed"):
            call()


def test_models_are_listed(fake: FakeServer) -> None:
    """Everything the server tells arrives."""
    model = model_pb2.Model(name="digits", default_version=2, aliases={"stable": 2})
    model.versions.add(
        version=2,
        state=model_pb2.VERSION_STATE_AVAILABLE,
        input_shape=[28, 28, 1],
        labels=["0", "1"],
        metrics={"accuracy": 0.99},
        dataset="mnist",
        provider="CPUExecutionProvider",
        max_batch_size=64,
    )
    model.versions.add(version=1, state=model_pb2.VERSION_STATE_FAILED, reason="model.onnx: SHA-256 is wrong")
    fake.models = [model]
    with Client(fake.target) as client:
        (found,) = client.models()
        assert client.model("digits") == found
        with pytest.raises(convserve.NotFoundError, match="no model other"):
            client.model("other")
    assert (found.name, found.default_version, found.aliases) == ("digits", 2, {"stable": 2})
    newest, oldest = found.versions
    assert (newest.state, newest.input_shape, newest.labels) == ("available", (28, 28, 1), ("0", "1"))
    assert newest.metrics == {"accuracy": 0.99}
    assert (oldest.state, oldest.reason) == ("failed", "model.onnx: SHA-256 is wrong")


@pytest.mark.parametrize(("reply", "healthy"), [(b"\x08\x01", True), (b"\x08\x02", False), (b"", False)])
def test_health_is_what_the_server_says(fake: FakeServer, reply: bytes, healthy: bool) -> None:
    """Only SERVING is healthy."""
    fake.health = reply
    with Client(fake.target) as client:
        assert client.health() is healthy
