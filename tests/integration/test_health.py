"""Watching a server's health, from the first status to the last."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from support.server import ServerProcess, serving

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


@pytest.fixture
def server(repository: Path, tmp_path: Path) -> Iterator[ServerProcess]:
    with serving(repository, tmp_path) as running:
        yield running


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
        assert rest[""] == rest["readiness"] == [NOT_SERVING]
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
            assert server.stop(20) == 0
            stop.set()
            for watcher in watchers:
                watcher.join()
