"""Watching a server's health, from the first status to the last."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import structlog
from grpc_health.v1 import health_pb2, health_pb2_grpc

from convserve.server.health import Health, _Servicer
from support.server import ServerProcess, serving

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


@pytest.fixture
def server(repository: Path, tmp_path: Path) -> Iterator[ServerProcess]:
    with serving(repository, tmp_path) as running:
        yield running


SETTINGS, HEADERS, DATA, PING = 4, 1, 0, 6
ACK = END_STREAM = 1
END_HEADERS = 4


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """A frame of HTTP/2 (RFC 9113, section 4.1)."""
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


WATCH = b"".join(
    b"\0" + bytes((len(key),)) + key + bytes((len(value),)) + value  # a literal of HPACK, not indexed
    for key, value in {
        b":method": b"POST",
        b":scheme": b"http",
        b":path": b"/grpc.health.v1.Health/Watch",
        b":authority": b"here",
        b"te": b"trailers",
        b"content-type": b"application/grpc",
    }.items()
)


class Context:
    """What Watch needs of a call."""

    def __init__(self) -> None:
        self.leave: Any = None

    def add_callback(self, callback: Any) -> bool:
        self.leave = callback
        return True

    def peer(self) -> str:
        return "ipv4:127.0.0.1:1"

    def cancel(self) -> None:
        """Nobody does."""


def watch(channel: grpc.Channel, name: str) -> Any:
    return health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service=name))


def test_watchers_see_the_drain_and_do_not_hold_it_up(server: ServerProcess) -> None:
    """Readiness and models go, liveness stays; the streams end, and the server does not wait for its drain timeout."""
    with grpc.insecure_channel(server.target) as channel:
        streams = {name: watch(channel, name) for name in ("", "readiness", "liveness", "stripes")}
        assert all(next(stream).status == SERVING for stream in streams.values())
        started = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - started < 10
        rest = {}
        for name, stream in streams.items():
            statuses: list[int] = []
            with contextlib.suppress(grpc.RpcError):  # the connection may end before the stream does
                statuses.extend(answer.status for answer in stream)
            rest[name] = statuses
        assert rest[""] == rest["readiness"] == rest["stripes"] == [NOT_SERVING]
        assert rest["liveness"] == []


def test_unknown_names(server: ServerProcess) -> None:
    """Check says NOT_FOUND; Watch says SERVICE_UNKNOWN and goes on, as the protocol wants it."""
    with grpc.insecure_channel(server.target) as channel:
        with pytest.raises(grpc.RpcError) as refused:
            health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service="other"))
        assert refused.value.code() is grpc.StatusCode.NOT_FOUND
        stream = watch(channel, "other")
        assert next(stream).status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
        stream.cancel()


def test_a_long_name_is_answered_all_the_same(server: ServerProcess) -> None:
    """A status that quotes all of it would be larger than a client takes, and arrive as something else."""
    with grpc.insecure_channel(server.target) as channel:
        with pytest.raises(grpc.RpcError) as refused:
            health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service="x" * 100_000))
        assert refused.value.code() is grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize("name", ["readiness", "liveness", "convserve.v1.ClassificationService"])
def test_a_model_does_not_take_a_name_of_the_server(name: str) -> None:
    """A probe is told of the process; that the model has no status of its own is logged once."""
    health = Health(["convserve.v1.ClassificationService"])
    status = health._servicer._statuses
    health.set_ready(True)
    with structlog.testing.capture_logs() as logs:
        for available in (True, False):
            health.set_model(name, available)
            health.set_model("stripes", available)
    assert (status[name], status["stripes"]) == (SERVING, NOT_SERVING)
    assert [(line["log_level"], line["model"]) for line in logs] == [("warning", name)]
    health.set_ready(False)
    assert status[name] == (SERVING if name == "liveness" else NOT_SERVING)
    health.close()


def test_names_that_were_watched_are_forgotten() -> None:
    """Whoever watches chooses the name, of megabytes if he likes; it stays as long as he does."""
    servicer = _Servicer(str)
    contexts = [Context(), Context()]
    for context in contexts:
        servicer.Watch(health_pb2.HealthCheckRequest(service="made up"), context, lambda _: None)  # type: ignore[arg-type]
    contexts[0].leave()
    assert list(servicer._watchers) == ["made up"]
    contexts[1].leave()
    assert servicer._watchers == {}


def test_who_watches_and_never_reads_keeps_nobody_from_watching(server: ServerProcess) -> None:
    """Flow control lets a caller accept not a single byte; what is sent to him waits, and so would the threads."""
    with socket.create_connection(("127.0.0.1", server.ready["grpc_port"]), timeout=30) as deaf:
        deaf.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(SETTINGS, 0, 0, struct.pack(">HI", 4, 0)))
        assert deaf.recv(9)  # the server's settings, which it sends when it has ours
        deaf.sendall(frame(SETTINGS, ACK, 0, b""))
        for number in range(1, 81, 2):
            deaf.sendall(frame(HEADERS, END_HEADERS, number, WATCH) + frame(DATA, END_STREAM, number, bytes(5)))
        deaf.sendall(frame(PING, 0, 0, bytes(8)))
        received = b""
        while frame(PING, ACK, 0, bytes(8)) not in received:
            received += deaf.recv(4096)
        with grpc.insecure_channel(server.target) as channel:
            stream = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(), timeout=30)
            assert next(stream).status == SERVING
            stream.cancel()


def test_watchers_that_come_and_go_during_a_drain_stop_nothing(repository: Path, tmp_path: Path) -> None:
    """A watcher that leaves in the moment of a change must not leave two threads waiting for each other."""
    for _ in range(5):
        with serving(repository, tmp_path) as server, grpc.insecure_channel(server.target) as channel:
            stop = threading.Event()

            def come_and_go(channel: grpc.Channel = channel, stop: threading.Event = stop) -> None:
                while not stop.is_set():
                    stream = watch(channel, "")
                    try:
                        next(stream)
                    except grpc.RpcError:
                        return
                    stream.cancel()

            watchers = [threading.Thread(target=come_and_go) for _ in range(6)]
            for watcher in watchers:
                watcher.start()
            assert server.stop(60) == 0
            stop.set()
            for watcher in watchers:
                watcher.join()
