"""What must be the same whether the fast lane or gRPC's public server answers: everything a caller can see."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from convserve.errors import OverloadedError
from convserve.server import lane
from convserve.v1 import classification_pb2 as pb
from support import versions
from support.server import ServerProcess, serving
from support.waiting import until

METHOD = "/convserve.v1.ClassificationService/Classify"
IMAGES = versions.random_images(3, seed=5)


@pytest.fixture(scope="module", params=["true", "false"], ids=["lane", "public"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    root = tmp_path_factory.mktemp("served")
    versions.write_version(root / "repository")
    flags = ("--fast-lane", request.param, "--limits-max-message-bytes", "1000000", "--model-max-queue-rows", "8192")
    with serving(root / "repository", root, *flags) as running:
        yield running


@pytest.fixture
def channel(server: ServerProcess) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(server.target, options=[("grpc.max_send_message_length", -1)]) as made:
        yield made


def message(images: np.ndarray = IMAGES, **fields: Any) -> bytes:
    packed = pb.PackedImages(data=images.tobytes(), shape=images.shape)
    return pb.ClassifyRequest(**{"model": "stripes", "packed": packed, **fields}).SerializeToString()


def caller(channel: grpc.Channel) -> Any:
    """Sends bytes as a message of the method."""
    return channel.unary_unary(METHOD)


def outcome(call: Callable[[], Any]) -> tuple[grpc.StatusCode, str, dict[str, Any]]:
    """Code, sentence and trailers of a call that fails."""
    with pytest.raises(grpc.RpcError) as error:
        call()
    failed: Any = error.value
    return failed.code(), failed.details(), dict(failed.trailing_metadata() or ())


def test_an_answer(channel: grpc.Channel) -> None:
    """The reply carries the caller's id and the model's own numbers."""
    classify = caller(channel)
    response = pb.ClassifyResponse.FromString(classify(message(top_k=9), metadata=(("x-request-id", "mine"),)))
    assert response.request_id == "mine"
    for result, row in zip(response.results, versions.reference(IMAGES), strict=True):
        assert [one.probability for one in result.predictions] == pytest.approx(sorted(row, reverse=True), abs=1e-6)


@pytest.mark.parametrize(
    ("body", "code", "sentence"),
    [
        (message(model="nobody"), grpc.StatusCode.NOT_FOUND, "model 'nobody' does not exist"),
        (message(version=9), grpc.StatusCode.NOT_FOUND, "has no version 9"),
        (message(IMAGES[:, :2]), grpc.StatusCode.INVALID_ARGUMENT, "packed.shape: images are"),
        (message() + b"\xff\xff", grpc.StatusCode.INVALID_ARGUMENT, "are no ClassifyRequest"),
        (b"", grpc.StatusCode.INVALID_ARGUMENT, "model: is empty"),
    ],
)
def test_a_refusal(channel: grpc.Channel, body: bytes, code: grpc.StatusCode, sentence: str) -> None:
    """Code, sentence and request id tell what was wrong."""
    got, details, trailers = outcome(lambda: caller(channel)(body, metadata=(("x-request-id", "mine"),)))
    assert got is code
    assert sentence in details
    assert trailers["x-request-id"] == "mine"


def test_a_call_without_a_message(channel: grpc.Channel) -> None:
    """It is told that one is wanted."""
    code, details, _ = outcome(lambda: channel.stream_unary(METHOD)(iter(())))
    assert code is grpc.StatusCode.UNIMPLEMENTED
    assert "exactly one" in details


def test_a_message_over_the_limit(channel: grpc.Channel) -> None:
    """It is refused before it is read, and the connection goes on."""
    classify = caller(channel)
    code, _, _ = outcome(lambda: classify(b"\0" * 1_100_000))
    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert classify(message())


def test_calls_whose_message_never_came_whole_are_not_counted_as_refused(
    server: ServerProcess, channel: grpc.Channel
) -> None:
    """Whoever goes before his message, or sends one that is too large, did not call a method that does not exist."""

    def refused() -> float:
        return server.metric("convserve_requests_total", code="UNIMPLEMENTED")

    before = refused()
    sent = threading.Event()

    def nothing_yet() -> Iterator[bytes]:
        sent.wait(10)
        yield from ()

    classify: Any = channel.stream_unary(METHOD)
    calls = [classify.future(nothing_yet()) for _ in range(4)]
    late = classify.future(nothing_yet(), timeout=0.05)
    assert outcome(late.result)[0] is grpc.StatusCode.DEADLINE_EXCEEDED
    for call in calls:
        call.cancel()
    sent.set()
    for _ in range(4):
        outcome(lambda: caller(channel)(b"\0" * 1_100_000))
    until(lambda: not server.metric("convserve_requests_in_flight"))
    assert refused() == before


def test_a_compressed_call(channel: grpc.Channel) -> None:
    """Compression is gRPC's business and works."""
    assert caller(channel)(message(), compression=grpc.Compression.Gzip)


def test_large_and_encoded_requests_are_answered_beside_the_loop(channel: grpc.Channel) -> None:
    """However they come, the answers are the same."""
    many = versions.random_images(lane.LARGE_BYTES // IMAGES[0].nbytes + 1, seed=8)
    response = pb.ClassifyResponse.FromString(caller(channel)(message(many)))
    assert [one.predictions[0].index for one in response.results] == versions.reference(many).argmax(1).tolist()
    broken = pb.ClassifyRequest(model="stripes", encoded=pb.EncodedImages(images=[b"no image"]))
    code, details, _ = outcome(lambda: caller(channel)(broken.SerializeToString()))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert "encoded.images[0]" in details


def test_a_deadline_that_has_passed(server: ServerProcess, channel: grpc.Channel) -> None:
    """The caller is told so, and the server counts it as that."""

    def counted() -> float:
        return server.metric("convserve_requests_total", method="Classify", code="DEADLINE_EXCEEDED")

    before = counted()
    classify = caller(channel)
    tries = 0
    while counted() == before:  # now and then the caller's own clock ends the call before it has left
        tries += 1
        assert tries < 50
        code, _, _ = outcome(lambda: classify(message(versions.random_images(800)), timeout=0.0005))
        assert code is grpc.StatusCode.DEADLINE_EXCEEDED
        time.sleep(0.02)


def test_callers_that_go_leave_nothing_behind(server: ServerProcess, channel: grpc.Channel) -> None:
    """After many calls that are cancelled at any moment, nothing is under way and the next call is answered."""
    classify = caller(channel)
    rng = np.random.default_rng(3)
    for _ in range(100):
        calls = [classify.future(message(versions.random_images(int(rng.integers(1, 200))))) for _ in range(4)]
        if rng.random() < 0.5:
            time.sleep(float(rng.random()) * 0.003)
        for call in calls:
            call.cancel()
    assert classify(message())
    until = time.monotonic() + 10
    while server.metric("convserve_requests_in_flight") or server.metric("convserve_queue_rows"):
        assert time.monotonic() < until
        time.sleep(0.05)


def test_callers_of_every_kind_at_once_get_their_own_answers(channel: grpc.Channel) -> None:
    """Small, large and refused requests of many threads do not mix."""
    classify = caller(channel)
    failures: list[str] = []

    def work(seed: int) -> None:
        rng = np.random.default_rng(seed)
        for _ in range(25):
            images = versions.random_images(int(rng.choice([1, 2, 7, 60, 300])), seed=int(rng.integers(1_000)))
            if rng.random() < 0.2:
                if outcome(lambda: classify(message(model="nobody")))[0] is not grpc.StatusCode.NOT_FOUND:
                    failures.append("refusal")
                continue
            response = pb.ClassifyResponse.FromString(classify(message(images)))
            if [one.predictions[0].index for one in response.results] != versions.reference(images).argmax(1).tolist():
                failures.append("answer")

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_an_unknown_grpcio_is_served_by_the_public_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """Internals that nobody has looked at are left alone."""
    monkeypatch.setattr(grpc, "__version__", "9.0.0")
    assert lane.build(None, [], None, None) is None  # type: ignore[arg-type]


def test_work_for_threads_is_bounded() -> None:
    """What would only wait is refused at once, and there is room again when something is done."""
    held: list[Callable[[], None]] = []

    class Pool:
        def submit(self, work: Callable[[], None]) -> None:
            held.append(work)

    with_pool = lane.FastLane(grpc.server(ThreadPoolExecutor(1)), [], None, Pool())  # type: ignore[arg-type]
    done: list[int] = []
    for index in range(lane.BESIDE):
        with_pool.beside(done.append, index)
    with pytest.raises(OverloadedError, match="image files and large messages"):
        with_pool.beside(done.append, -1)
    held[0]()
    with_pool.beside(done.append, lane.BESIDE)
    assert done == [0]


def test_a_batch_that_breaks_does_not_end_the_loop() -> None:
    """Whatever goes wrong while one batch is handed out, the next one runs."""

    class Broken:
        runs = 0

        def __bool__(self) -> bool:
            return self.runs < 2

        def run_one(self) -> None:
            self.runs += 1
            raise RuntimeError("broken")

    broken = Broken()
    fast = lane.FastLane(grpc.server(ThreadPoolExecutor(1)), [], None, None)  # type: ignore[arg-type]
    fast.turns = broken  # type: ignore[assignment]
    fast.start()
    until(lambda: broken.runs == 2)
    fast.close()


def test_it_ends_while_calls_come(tmp_path: Path) -> None:
    """A drain on the fast lane answers what was accepted and refuses the rest with UNAVAILABLE."""
    versions.write_version(tmp_path / "repository")
    with serving(tmp_path / "repository", tmp_path, "--fast-lane", "true") as server:
        codes: set[grpc.StatusCode] = set()
        started = threading.Barrier(5)

        def call() -> None:
            with grpc.insecure_channel(server.target) as channel:
                classify = caller(channel)
                classify(message())
                started.wait(10)
                while True:
                    try:
                        classify(message(), timeout=10)
                    except grpc.RpcError as error:
                        codes.add(error.code())
                        return

        callers = [threading.Thread(target=call) for _ in range(4)]
        for thread in callers:
            thread.start()
        started.wait(10)
        assert server.stop() == 0
        for thread in callers:
            thread.join()
        assert codes == {grpc.StatusCode.UNAVAILABLE}
