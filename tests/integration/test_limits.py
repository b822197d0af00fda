"""What a caller may send and hold, each limit at a real server, each with a sentence that tells it."""

from __future__ import annotations

import io
import os
import resource
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import numpy as np
import pytest
from PIL import Image
from prometheus_client import CollectorRegistry

from convserve.config import LimitSettings
from convserve.loadtest import http2
from convserve.server import http, listener
from convserve.v1 import classification_pb2 as pb
from convserve.v1 import classification_pb2_grpc, model_pb2, model_pb2_grpc
from support import server as servers
from support import versions


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[servers.ServerProcess]:
    """A server with narrow limits."""
    root = tmp_path_factory.mktemp("limits")
    versions.write_version(root / "repository")
    with servers.serving(
        root / "repository",
        root,
        *("--limits-max-message-bytes", "65536"),
        *("--limits-max-image-pixels", "10000"),
        *("--limits-max-header-bytes", "4096"),
        *("--limits-max-connections", "3"),
        *("--limits-max-streams-per-connection", "2"),
        *("--model-max-batch-size", "4"),
        *("--model-max-queue-rows", "8"),
    ) as running:
        yield running


@pytest.fixture
def channel(server: servers.ServerProcess) -> Iterator[grpc.Channel]:
    with connect(server) as open_channel:
        yield open_channel


def connect(server: servers.ServerProcess) -> grpc.Channel:
    """A connection of its own."""
    return grpc.insecure_channel(server.target, options=[("grpc.use_local_subchannel_pool", 1)])


def packed(count: int) -> pb.ClassifyRequest:
    """Images of the model's size."""
    images = versions.random_images(count)
    return pb.ClassifyRequest(model="stripes", packed=pb.PackedImages(data=images.tobytes(), shape=images.shape))


def refusal(
    channel: grpc.Channel, request: pb.ClassifyRequest, metadata: tuple[tuple[str, str | bytes], ...] | None = None
) -> tuple[grpc.StatusCode, str]:
    """How a call is refused."""
    with pytest.raises(grpc.RpcError) as caught:
        classification_pb2_grpc.ClassificationServiceStub(channel).Classify(request, timeout=20, metadata=metadata)
    return caught.value.code(), caught.value.details() or ""


def test_a_message_may_have_so_many_bytes(channel: grpc.Channel) -> None:
    """GRPC refuses the rest before anybody reads it."""
    request = packed(1)
    request.packed.data = bytes(100_000)
    code, details = refusal(channel, request)
    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "65536" in details


def test_a_request_may_have_so_many_images(channel: grpc.Channel) -> None:
    """As many as may wait; the sentence says how many came and how many may."""
    code, details = refusal(channel, packed(9))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert "9 images came; one request takes 1 to 8" in details


def test_an_image_may_have_so_many_pixels(channel: grpc.Channel) -> None:
    """Its header tells, so a small file that would grow large is never decoded."""
    file = io.BytesIO()
    Image.fromarray(np.zeros((101, 100), np.uint8)).save(file, "PNG")
    request = pb.ClassifyRequest(model="stripes", encoded=pb.EncodedImages(images=[file.getvalue()]))
    code, details = refusal(channel, request)
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert "10000" in details.replace(",", "").replace(" ", "")
    assert "encoded.images[0]" in details


def test_metadata_may_have_so_many_bytes(channel: grpc.Channel) -> None:
    """Always at the same size: a soft limit below it would refuse by chance."""
    stub = classification_pb2_grpc.ClassificationServiceStub(channel)
    for _ in range(20):
        assert stub.Classify(packed(1), metadata=(("x-note", "a" * 3500),)).results
    code, details = refusal(channel, packed(1), metadata=(("x-note", "a" * 5000),))
    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "metadata size exceeds hard limit" in details


def test_a_server_takes_so_many_connections(server: servers.ServerProcess) -> None:
    """One more is closed at once, and its client is told UNAVAILABLE; when one leaves, there is room again."""
    stubs = []
    held = [connect(server) for _ in range(3)]
    try:
        for channel in held:
            stub = model_pb2_grpc.ModelServiceStub(channel)
            assert stub.ListModels(model_pb2.ListModelsRequest()).models
            stubs.append(stub)
        with connect(server) as fourth:
            assert refusal(fourth, packed(1))[0] is grpc.StatusCode.UNAVAILABLE
        held.pop().close()
        with connect(server) as another:
            stub = model_pb2_grpc.ModelServiceStub(another)
            assert stub.ListModels(model_pb2.ListModelsRequest(), wait_for_ready=True, timeout=20).models
    finally:
        for channel in held:
            channel.close()


@pytest.mark.parametrize("workers", [1, 2])
def test_there_are_files_for_so_many_connections(tmp_path: Path, workers: int) -> None:
    """Whatever the shell's soft limit is, in each process; the hard one is beyond a server, which says so."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    versions.write_version(tmp_path / "repository")
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
        flags = ("--workers", str(workers), "--limits-max-connections", str(hard))
        with servers.serving(tmp_path / "repository", tmp_path, *flags) as running:
            assert running.metric("process_max_fds") == workers * hard
            (told,) = (event for event in running.log_events() if "fewer open files" in event["event"])
            assert (told["allowed"], told["needed"]) == (hard, hard + 256)
        enough = ("--limits-max-connections", "512")
        with servers.serving(tmp_path / "repository", tmp_path, *flags[:2], *enough) as running:
            assert running.metric("process_max_fds") == workers * (512 + 256)
            assert "fewer open files" not in running.log
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_connection_carries_so_many_calls(channel: grpc.Channel) -> None:
    """The client holds a third call back until one of two has ended."""
    watch: grpc.UnaryStreamMultiCallable[bytes, bytes] = channel.unary_stream("/grpc.health.v1.Health/Watch")
    first, second = watch(b""), watch(b"")
    assert next(iter(first)) == next(iter(second)) == b"\x08\x01"
    third = classification_pb2_grpc.ClassificationServiceStub(channel).Classify.future(packed(1), timeout=60)
    answered = threading.Event()
    third.add_done_callback(lambda _: answered.set())
    assert not answered.wait(0.3)
    first.cancel()
    assert third.result().results
    second.cancel()


def test_a_connection_that_says_nothing_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half-open connections do not use up the places of others."""
    monkeypatch.setattr(listener, "_HANDSHAKE_SECONDS", 0.5)
    server = grpc.server(ThreadPoolExecutor(1), options=listener.options(LimitSettings(), shared=False))
    port = listener.bind(server, "port", "127.0.0.1", 0, None)
    server.start()
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=60) as silent:
            while silent.recv(4096):  # the server's own greeting, then the end
                pass
    finally:
        server.stop(grace=None).wait()


def test_a_burst_of_calls_is_taken_in_whole() -> None:
    """Left to itself, gRPC ends those beyond some thousand by chance, as CANCELLED, which no client sends again."""
    open_up = threading.Event()

    class Held(grpc.GenericRpcHandler):
        """Found by the thread that takes calls in, which so takes in one."""

        def service(self, _: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[bytes, bytes]:
            open_up.wait(60)
            return grpc.unary_unary_rpc_method_handler(lambda request, _context: request)

    server = grpc.server(ThreadPoolExecutor(1), options=listener.options(LimitSettings(), shared=False))
    server.add_generic_rpc_handlers((Held(),))
    port = listener.bind(server, "port", "127.0.0.1", 0, None)
    server.start()
    wires = [socket.create_connection(("127.0.0.1", port), timeout=60) for _ in range(4)]
    connections = [http2.Connection("localhost", "/any/Method", 60) for _ in wires]
    replies: list[http2.Reply] = []
    try:
        for wire, connection in zip(wires, connections, strict=True):
            for _ in range(1000):
                connection.send(http2.frame_message(b"mine"))
            wire.sendall(connection.output + b"\0\0\x08\6\0\0\0\0\0that all")  # a PING: its answer comes after them
            came = b""
            while b"\6\1\0\0\0\0that all" not in came:
                part = wire.recv(65536)
                came += part
                replies += connection.receive(part)
        assert not replies
        open_up.set()
        for wire, connection in zip(wires, connections, strict=True):
            while connection.in_flight:
                replies += connection.receive(wire.recv(65536))
        assert len(replies) == 4000
        assert {(reply.code, reply.message) for reply in replies} == {(0, b"mine")}
    finally:
        open_up.set()
        for wire in wires:
            wire.close()
        server.stop(grace=None).wait()


def test_a_silent_connection_to_the_http_port_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would hold a thread."""
    monkeypatch.setattr(http, "_SECONDS_TO_ASK", 0.3)
    server = http.HttpServer("127.0.0.1", 0, CollectorRegistry(), lambda: True)
    server.start()
    try:
        with socket.create_connection(("127.0.0.1", server.port), timeout=60) as silent:
            assert silent.recv(4096) == b""
    finally:
        server.close()


@pytest.mark.skipif(bool(os.environ.get("TEST_PUBLIC_PATH")), reason="the public path has one pool for everything")
def test_streams_that_ask_nothing_keep_no_image_file_waiting(tmp_path: Path) -> None:
    """They hold the public server's threads; the lane has its own for what has to be decoded."""
    versions.write_version(tmp_path / "repository")
    with (
        servers.serving(tmp_path / "repository", tmp_path, "--limits-max-concurrent-requests", "4") as server,
        connect(server) as channel,
    ):
        silent = threading.Event()

        def nothing() -> Iterator[bytes]:
            silent.wait(60)
            yield from ()

        reflect: grpc.StreamStreamMultiCallable[bytes, bytes] = channel.stream_stream(
            "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
        )
        streams = [reflect(nothing()) for _ in range(8)]
        try:
            file = io.BytesIO()
            Image.fromarray(versions.random_images(1)[0, :, :, 0]).save(file, "PNG")
            request = pb.ClassifyRequest(model="stripes", encoded=pb.EncodedImages(images=[file.getvalue()]))
            for _ in range(3):
                assert classification_pb2_grpc.ClassificationServiceStub(channel).Classify(request, timeout=20).results
        finally:
            silent.set()
            for stream in streams:
                stream.cancel()
