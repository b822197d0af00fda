"""Several workers behind one port."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from convserve import manifest as m
from convserve.open_inference.v2 import management_pb2
from convserve.v1 import classification_pb2 as pb
from convserve.v1 import classification_pb2_grpc as rpc
from convserve.v1 import model_pb2, model_pb2_grpc
from support import versions
from support.foreign import infer, infer_request, oip
from support.held import HeldProofs
from support.server import ServerProcess, run_to_end, serving, starting
from support.waiting import until

IMAGES = versions.random_images(1)
REQUEST = pb.ClassifyRequest(model="stripes", packed=pb.PackedImages(data=IMAGES.tobytes(), shape=IMAGES.shape))


@pytest.fixture
def server(repository: Path, tmp_path: Path) -> Iterator[ServerProcess]:
    with serving(repository, tmp_path, "--workers", "2", "--admin-methods", "true") as running:
        yield running


def channels(server: ServerProcess, count: int) -> list[grpc.Channel]:
    """Connections of their own, which the kernel spreads over the workers."""
    return [grpc.insecure_channel(server.target, [("grpc.use_local_subchannel_pool", 1)]) for _ in range(count)]


def children(server: ServerProcess) -> list[int]:
    """Process ids of the workers."""
    by_thread = Path(f"/proc/{server.process.pid}/task").glob("*/children")
    return sorted(int(pid) for one in by_thread for pid in one.read_text().split())


def test_workers_share_the_port_and_metrics_add_up(server: ServerProcess) -> None:
    """Twenty connections reach both workers; `/metrics` has the sum; the supervisor itself loads no gRPC."""
    made = channels(server, 20)
    for channel in made:
        rpc.ClassificationServiceStub(channel).Classify(REQUEST)
    # A request is counted once its reply has left.
    until(lambda: server.metric("convserve_requests_total", method="Classify", code="OK") == 20)
    assert server.metric("convserve_versions", state="available") == 1
    assert server.metric("convserve_workers") == 2
    assert server.http("/readyz")[0] == 200
    assert len(children(server)) == 2
    maps = Path(f"/proc/{server.process.pid}/maps").read_text()
    assert "cygrpc" not in maps
    assert "onnxruntime" not in maps
    assert server.stop() == 0
    for channel in made:
        channel.close()
    assert {event["worker"] for event in server.log_events() if event["event"] == "drained"} == {0, 1}


def test_a_killed_worker_is_replaced(server: ServerProcess) -> None:
    """Counters keep what the dead worker had told, and `/readyz` is false until the new one is ready."""
    made = channels(server, 8)
    for channel in made:
        rpc.ClassificationServiceStub(channel).Classify(REQUEST)
        channel.close()
    until(lambda: server.metric("convserve_requests_total", method="Classify") == 8)
    victim = children(server)[0]
    os.kill(victim, signal.SIGKILL)
    counted = []

    def replaced() -> bool:
        counted.append(server.metric("convserve_requests_total", method="Classify"))
        return server.metric("convserve_worker_restarts_total") == 1 and server.http("/readyz")[0] == 200

    until(replaced)
    assert victim not in children(server)
    assert set(counted) == {8}
    assert any(event["event"] == "worker died" and event["status"] == -9 for event in server.log_events())


def test_a_worker_that_hangs_is_replaced(repository: Path, tmp_path: Path) -> None:
    """Stopped, it neither answers nor ends; the supervisor kills it, says so, counts it, and starts another."""
    with serving(repository, tmp_path, "--workers", "2", "--worker-timeout", "8") as server:
        victim, other = children(server)
        os.kill(victim, signal.SIGSTOP)
        until(lambda: server.metric("convserve_worker_hangs_total") == 1, seconds=60)
        until(lambda: server.metric("convserve_worker_restarts_total") == 1 and server.http("/readyz")[0] == 200)
        assert victim not in children(server)
        assert other in children(server)
        events = {event["event"]: event for event in server.log_events()}
        assert events["worker hangs; killed"]["reason"] == "it has not answered for 8 s"
        assert events["worker died"]["status"] == -signal.SIGKILL


def test_admin_methods_reach_all_workers_and_their_replacements(server: ServerProcess, repository: Path) -> None:
    """An alias set through one worker holds in both, also after one was killed."""
    versions.write_version(repository, version=2, seed=1)
    with grpc.insecure_channel(server.target) as channel:
        models = model_pb2_grpc.ModelServiceStub(channel)
        models.LoadModel(model_pb2.LoadModelRequest(name="stripes", version=2), timeout=20)
        models.SetAlias(model_pb2.SetAliasRequest(name="stripes", alias="stable", version=2), timeout=20)
        with pytest.raises(grpc.RpcError) as refused:
            models.LoadModel(model_pb2.LoadModelRequest(name="stripes", version=7), timeout=20)
        assert refused.value.code() is grpc.StatusCode.NOT_FOUND

    def answering_versions() -> set[int]:
        made = channels(server, 12)
        found = set()
        for channel in made:
            reply = rpc.ClassificationServiceStub(channel).Classify(
                pb.ClassifyRequest(model="stripes", alias="stable", packed=REQUEST.packed),
                wait_for_ready=True,
                timeout=20,
            )
            found.add(reply.model_version)
            channel.close()
        return found

    assert answering_versions() == {2}
    os.kill(children(server)[1], signal.SIGKILL)
    until(lambda: server.metric("convserve_worker_restarts_total") == 1)
    until(lambda: server.http("/readyz")[0] == 200)
    until(lambda: server.metric("convserve_version_info", version="2") == 1)
    assert answering_versions() == {2}


def test_statistics_are_those_of_all_workers(server: ServerProcess) -> None:
    """Whichever worker is asked tells the sum; one that was killed takes its part along."""
    made = channels(server, 20)
    for channel in made:
        infer(channel, infer_request(versions.random_images(3)))

    def statistics(channel: grpc.Channel) -> management_pb2.ModelStatistics:
        (one,) = oip(channel, "ModelStatistics", name="stripes").model_stats
        assert isinstance(one, management_pb2.ModelStatistics)
        return one

    for channel in made:
        one = statistics(channel)
        assert (one.inference_count, one.inference_stats.success.count, one.execution_count) == (60, 20, 20)
        assert {size.batch_size: size.compute_infer.count for size in one.batch_stats} == {3: 20}
        assert one.inference_stats.success.ns >= one.inference_stats.compute_infer.ns > 0
        assert one.last_inference > 1e12
    os.kill(children(server)[0], signal.SIGKILL)
    until(lambda: server.metric("convserve_worker_restarts_total") == 1)
    until(lambda: server.http("/readyz")[0] == 200)
    with grpc.insecure_channel(server.target) as channel:
        assert 0 < statistics(channel).inference_count < 60
    for channel in made:
        channel.close()


@pytest.fixture
def held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HeldProofs]:
    made = HeldProofs(tmp_path / "held", monkeypatch)
    yield made
    made.release_all()


def load(models: model_pb2_grpc.ModelServiceStub, version: int) -> Any:
    return models.LoadModel.future(model_pb2.LoadModelRequest(name="stripes", version=version), timeout=60)


def test_scrapes_go_on_while_a_version_loads(held: HeldProofs, repository: Path, tmp_path: Path) -> None:
    """And see what is counted meanwhile; so do statistics. The load ends when it ends."""
    held.hold(2)
    flags = ("--workers", "2", "--admin-methods", "true", "--repository-poll-interval", "0")
    with serving(repository, tmp_path, *flags) as server, grpc.insecure_channel(server.target) as channel:
        versions.write_version(repository, version=2, seed=1)
        loading = load(model_pb2_grpc.ModelServiceStub(channel), 2)
        until(lambda: held.waiting(2) != [])
        made = channels(server, 8)
        for one in made:
            infer(one, infer_request(IMAGES))
            one.close()
        until(lambda: server.metric("convserve_requests_total", method="ModelInfer", code="OK") == 8)
        assert server.metric("convserve_workers") == 2
        assert oip(channel, "ModelStatistics", name="stripes").model_stats[0].inference_count == 8
        assert not loading.done()
        held.release(2)
        assert loading.result().version.state == model_pb2.VERSION_STATE_AVAILABLE
        until(lambda: server.metric("convserve_default_version", model="stripes") == 2)  # the smallest of all workers


def test_a_worker_that_dies_while_it_loads_is_replaced_without_the_version(
    held: HeldProofs, repository: Path, tmp_path: Path
) -> None:
    """The caller is told to try again; a version that kills workers is not loaded by the next one."""
    held.hold(2)
    flags = ("--workers", "2", "--admin-methods", "true", "--repository-poll-interval", "0")
    with serving(repository, tmp_path, *flags) as server:
        versions.write_version(repository, version=2, seed=1)
        with grpc.insecure_channel(server.target) as channel:
            loading = load(model_pb2_grpc.ModelServiceStub(channel), 2)
            until(lambda: held.waiting(2) != [])
            shutil.rmtree(repository / "stripes/2")  # or a new worker would take it for the newest
            os.kill(held.waiting(2)[0], signal.SIGKILL)
            assert loading.exception().code() is grpc.StatusCode.UNAVAILABLE
        until(lambda: server.metric("convserve_worker_restarts_total") == 1)
        until(lambda: server.http("/readyz")[0] == 200)
        held.release(2)
        versions.write_version(repository, version=2, seed=1)
        with grpc.insecure_channel(server.target) as channel:
            assert load(model_pb2_grpc.ModelServiceStub(channel), 2).result().version.version == 2
        until(lambda: server.metric("convserve_default_version", model="stripes") == 2)


def test_a_replacement_answers_only_as_the_others_do(held: HeldProofs, repository: Path, tmp_path: Path) -> None:
    """What administrators decided is in force before it takes its first call, also what it missed while it started."""
    versions.write_version(repository, version=2, seed=1)
    flags = ("--workers", "2", "--admin-methods", "true", "--repository-poll-interval", "0")
    with serving(repository, tmp_path, *flags) as server:

        def administer(method: str, request: object) -> None:
            with grpc.insecure_channel(server.target, [("grpc.use_local_subchannel_pool", 1)]) as channel:
                getattr(model_pb2_grpc.ModelServiceStub(channel), method)(request, timeout=30)

        def answers() -> set[int]:
            made = channels(server, 8)
            found = {rpc.ClassificationServiceStub(one).Classify(REQUEST, timeout=30).model_version for one in made}
            for one in made:
                one.close()
            return found

        administer("SetAlias", model_pb2.SetAliasRequest(name="stripes", alias="stable", version=1))
        assert answers() == {1}
        held.hold(1)
        os.kill(children(server)[0], signal.SIGKILL)
        until(lambda: held.waiting(1) != [])
        assert answers() == {1}  # by the other worker: whoever cannot answer yet draws no calls
        assert server.http("/readyz")[0] == 503
        administer("SetAlias", model_pb2.SetAliasRequest(name="stripes", alias="canary", version=2))
        held.release(1)
        until(lambda: server.http("/readyz")[0] == 200)
        assert answers() == {1}
        assert server.metric("convserve_alias_info", alias="canary", version="2") == 1


def test_workers_that_serve_outlast_a_repository_that_is_away(repository: Path, tmp_path: Path) -> None:
    """A replacement that says why it cannot start is no crash; it is tried again until it can."""
    with serving(repository, tmp_path, "--workers", "2") as server:
        away = repository.with_name("away")
        repository.rename(away)
        os.kill(children(server)[0], signal.SIGKILL)
        reasons = [str(repository), "cannot be read"]
        until(
            lambda: any(
                event["event"] == "worker died" and all(text in event.get("reason", "") for text in reasons)
                for event in server.log_events()
            )
        )
        assert server.http("/readyz")[0] == 503
        with grpc.insecure_channel(server.target) as channel:
            assert rpc.ClassificationServiceStub(channel).Classify(REQUEST, timeout=30).model_version == 1
        away.rename(repository)
        until(lambda: server.http("/readyz")[0] == 200)


@pytest.mark.parametrize(
    ("workers", "number", "status"), [(1, signal.SIGTERM, 0), (2, signal.SIGTERM, 0), (2, signal.SIGKILL, -9)]
)
def test_a_server_that_is_told_to_end_while_it_starts_ends_at_once(
    held: HeldProofs, repository: Path, tmp_path: Path, workers: int, number: int, status: int
) -> None:
    """With its workers, however long their loads would take; nothing was accepted that could be lost."""
    held.hold(1)
    with starting(repository, tmp_path, "--workers", str(workers)) as server:
        until(lambda: len(held.waiting(1)) == workers)
        server.process.send_signal(number)
        assert server.process.wait(20) == status
        until(lambda: not any(_alive(pid) for pid in held.waiting(1)))
        assert server.process.stdout is not None
        assert server.process.stdout.read() == ""


def test_a_worker_that_dies_while_the_server_starts_ends_it(held: HeldProofs, repository: Path, tmp_path: Path) -> None:
    """At once, although another one would load for long."""
    held.hold(1)
    with starting(repository, tmp_path, "--workers", "2") as server:
        until(lambda: len(held.waiting(1)) == 2)
        os.kill(held.waiting(1)[1], signal.SIGKILL)
        assert server.process.wait(20) == 1
        assert not any(_alive(pid) for pid in held.waiting(1))
        (event,) = (event for event in server.log_events() if event["event"] == "cannot start")
        assert "ended before it was ready" in event["reason"]


def test_a_terminal_that_closes_drains_all_workers(server: ServerProcess) -> None:
    """It tells each of them; the supervisor decides."""
    for pid in (*children(server), server.process.pid):
        os.kill(pid, signal.SIGHUP)
    assert server.process.wait(20) == 0
    assert {event["worker"] for event in server.log_events() if event["event"] == "drained"} == {0, 1}


def test_a_second_signal_ends_workers_too(repository: Path, tmp_path: Path) -> None:
    """Nobody goes on draining after the supervisor, nor does one stay that was stopped and cannot see its end."""
    with serving(repository, tmp_path, "--workers", "2", "--drain-delay", "100") as server:
        pids = children(server)
        server.process.send_signal(signal.SIGTERM)
        until(lambda: any(event["event"] == "stopping" for event in server.log_events()))
        until(lambda: server.http("/readyz")[0] == 503)
        assert all(_alive(pid) for pid in pids)
        os.kill(pids[0], signal.SIGSTOP)
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(20) == 128 + signal.SIGTERM
        until(lambda: not any(_alive(pid) for pid in pids))


def test_a_crash_loop_ends_the_server(server: ServerProcess) -> None:
    """Whoever restarts containers should see it; exit status 1."""

    def deaths() -> int:
        return sum(event["event"] == "worker died" for event in server.log_events())

    for count in range(1, 6):
        until(lambda: len([pid for pid in children(server) if _alive(pid)]) == 2)
        os.kill([pid for pid in children(server) if _alive(pid)][-1], signal.SIGKILL)
        until(lambda count=count: deaths() == count)  # type: ignore[misc]  # bound now, not when it is called
    assert server.process.wait(60) == 1
    assert any(event["event"] == "workers die in a loop; giving up" for event in server.log_events())


def test_workers_end_with_a_killed_supervisor(server: ServerProcess) -> None:
    """No orphan keeps the port."""
    pids = children(server)
    server.process.kill()
    server.process.wait()
    until(lambda: not any(_alive(pid) for pid in pids))


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_start_up_errors_come_through(repository: Path, server: ServerProcess) -> None:
    """A port that is taken and a damaged model end the start with their reason."""
    taken = run_to_end(repository, "--workers", "2", "--port", str(server.ready["grpc_port"]))
    assert taken.returncode == 1
    assert "cannot listen" in taken.stderr
    (repository / "stripes/1" / m.ONNX_FILE).write_bytes(b"")
    damaged = run_to_end(repository, "--workers", "2")
    assert damaged.returncode == 1
    assert "model.onnx: SHA-256 is" in damaged.stderr
