"""A batch that does not end, as of a device whose driver does not come back."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from convserve.v1 import classification_pb2 as pb
from convserve.v1 import classification_pb2_grpc as rpc
from support import versions
from support.held import HeldBatch
from support.server import serving
from support.waiting import until

REASON = "stripes version 1 has been running one batch for"


@pytest.fixture
def held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HeldBatch]:
    """Batches that can be made to hang."""
    batch = HeldBatch(tmp_path / "held", monkeypatch)
    yield batch
    batch.release()


def classify(target: str, timeout: float) -> grpc.StatusCode:
    """Ask once over a connection of its own. Returns how it ended."""
    images = versions.random_images(1)
    request = pb.ClassifyRequest(model="stripes", packed=pb.PackedImages(data=images.tobytes(), shape=images.shape))
    options = [("grpc.use_local_subchannel_pool", 1)]
    with grpc.insecure_channel(target, options) as channel:
        try:
            rpc.ClassificationServiceStub(channel).Classify(request, timeout=timeout)
        except grpc.RpcError as error:
            return error.code()
    return grpc.StatusCode.OK


def liveness(target: str) -> str:
    """What gRPC's health check says of the process."""
    with grpc.insecure_channel(target) as channel:
        answer = health_pb2_grpc.HealthStub(channel).Check(
            health_pb2.HealthCheckRequest(service="liveness"), timeout=20
        )
    return str(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))


def test_a_server_that_stands_alone_says_that_it_should_be_replaced(
    repository: Path, tmp_path: Path, held: HeldBatch
) -> None:
    """Over both probes, with the reason, and no longer than it lasts."""
    with serving(repository, tmp_path, "--worker-timeout", "0.5") as server:
        assert (server.http("/livez"), liveness(server.target)) == ((200, "ok\n"), "SERVING")
        held.hold()
        assert classify(server.target, 1.0) == grpc.StatusCode.DEADLINE_EXCEEDED
        until(lambda: server.http("/livez")[0] == 503)
        assert REASON in server.http("/livez")[1]
        assert liveness(server.target) == "NOT_SERVING"
        assert any(event["event"] == "a batch does not end" for event in server.log_events())
        held.release()
        until(lambda: server.http("/livez") == (200, "ok\n"))
        assert liveness(server.target) == "SERVING"
        assert classify(server.target, 20) == grpc.StatusCode.OK


def test_a_batch_that_does_not_end_keeps_no_server_from_ending(
    repository: Path, tmp_path: Path, held: HeldBatch
) -> None:
    """What is left when the drain's time is over is cut, this too; supervisors treat their workers alike."""
    with serving(repository, tmp_path, "--drain-timeout", "0.5") as server:
        held.hold()
        assert classify(server.target, 1.0) == grpc.StatusCode.DEADLINE_EXCEEDED
        assert server.stop(40) == 1
        assert any(event["event"] == "did not drain in time; ended" for event in server.log_events())


def test_a_batch_that_does_not_end_keeps_no_worker_without_a_supervisor(
    repository: Path, tmp_path: Path, held: HeldBatch
) -> None:
    """Nobody is left to end it: it would hold port and memory until somebody finds it."""
    with serving(repository, tmp_path, "--workers", "2", "--drain-timeout", "0.5") as server:
        held.hold()
        assert classify(server.target, 1.0) == grpc.StatusCode.DEADLINE_EXCEEDED
        server.process.kill()
        until(lambda: "did not drain in time; ended" in server.log, seconds=60)


def test_with_no_limit_a_batch_may_run_for_ever(repository: Path, tmp_path: Path, held: HeldBatch) -> None:
    """As under a debugger."""
    with serving(repository, tmp_path, "--worker-timeout", "0") as server:
        held.hold()
        assert classify(server.target, 1.0) == grpc.StatusCode.DEADLINE_EXCEEDED
        assert held.process()
        assert (server.http("/livez"), liveness(server.target)) == ((200, "ok\n"), "SERVING")
        held.release()


def test_one_of_several_workers_is_replaced(repository: Path, tmp_path: Path, held: HeldBatch) -> None:
    """It answers the supervisor all the time, and says why it is of no use."""
    with serving(repository, tmp_path, "--workers", "2", "--worker-timeout", "2") as server:
        held.hold()
        with ThreadPoolExecutor(1) as callers:
            callers.submit(classify, server.target, 20)
            until(lambda: bool(held.process()))
            until(lambda: server.metric("convserve_worker_hangs_total") == 1, seconds=60)
        until(lambda: server.metric("convserve_worker_restarts_total") == 1 and server.http("/readyz")[0] == 200)
        [killed] = [event for event in server.log_events() if event["event"] == "worker hangs; killed"]
        assert REASON in killed["reason"]
        assert {classify(server.target, 20) for _ in range(8)} == {grpc.StatusCode.OK}
