"""Workers die, servers restart and versions change under load, and no call of the provided client fails.

Each happens once to threads and once to tasks; or as often as the environment variable CHAOS_ROUNDS says, and without
coalescing too:

    CHAOS_ROUNDS=10 make test ARGS=tests/chaos
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from support import versions
from support.load import WAYS, Load
from support.server import ServerProcess, serving
from support.waiting import until

ROUNDS = int(os.environ.get("CHAOS_ROUNDS", "0"))

pytestmark = pytest.mark.timeout(300)  # servers start under load


def each_way(test: Callable[..., None]) -> Any:
    return pytest.mark.parametrize("way", WAYS if ROUNDS else WAYS[:2])(
        pytest.mark.parametrize("turn", range(max(ROUNDS, 1)))(test)
    )


def workers(server: ServerProcess) -> list[int]:
    """Process ids of the workers."""
    by_thread = Path(f"/proc/{server.process.pid}/task").glob("*/children")
    return sorted(int(pid) for one in by_thread for pid in one.read_text().split())


def kill_a_worker(server: ServerProcess, at: int) -> None:
    """SIGKILL, and return when its place is taken."""
    restarts = server.metric("convserve_worker_restarts_total")
    os.kill(workers(server)[at], signal.SIGKILL)
    until(lambda: server.metric("convserve_worker_restarts_total") > restarts)
    until(lambda: server.http("/readyz")[0] == 200, seconds=60)


@each_way
def test_a_killed_worker_fails_no_call(repository: Path, tmp_path: Path, way: str, turn: int) -> None:
    """Its calls are repeated over other connections. Twice, once for each worker: connections may all be with one."""
    with serving(repository, tmp_path, "--workers", "2") as server, Load(server.target, way).running() as load:
        for at in (0, 1):
            kill_a_worker(server, at)
            load.goes_on()
    assert load.failures == []


@contextmanager
def two_servers(repository: Path, tmp_path: Path) -> Iterator[tuple[list[ServerProcess], Callable[[int], None]]]:
    """Two servers, and a function that restarts one of them on its port after a drain."""
    servers: list[ServerProcess] = []
    with ExitStack() as stack:

        def start(port: int = 0) -> ServerProcess:
            directory = tmp_path / f"logs-{len(list(tmp_path.iterdir()))}"
            directory.mkdir()
            return stack.enter_context(serving(repository, directory, "--port", str(port)))

        def restart(at: int) -> None:
            assert servers[at].stop() == 0
            (drained,) = (event for event in servers[at].log_events() if event["event"] == "drained")
            assert drained["requests_cut"] == 0
            servers[at] = start(servers[at].ready["grpc_port"])

        servers.extend((start(), start()))
        yield servers, restart


@each_way
def test_a_rolling_restart_fails_no_call(repository: Path, tmp_path: Path, way: str, turn: int) -> None:
    """One server drains and comes back, then the other; the client uses both before and after."""

    def calls(at: int) -> float:
        return servers[at].metric("convserve_requests_total", method="Classify", code="OK")

    with two_servers(repository, tmp_path) as (servers, restart):
        target = "ipv4:" + ",".join(server.target for server in servers)
        with Load(target, way).running() as load:
            until(lambda: calls(0) > 10 and calls(1) > 10)
            for at in (0, 1):
                restart(at)
                until(lambda at=at: calls(at) > 10 or bool(load.failures))  # type: ignore[misc]
    assert load.failures == []


@each_way
def test_a_version_swap_fails_no_call(repository: Path, tmp_path: Path, way: str, turn: int) -> None:
    """Every answer is right for the version it names, and in the end all come from the new one."""
    flags = ("--workers", "2", "--repository-poll-interval", "0.1")
    with serving(repository, tmp_path, *flags) as server, Load(server.target, way).running() as load:
        staged = versions.write_version(tmp_path / "staged", version=2, seed=1)
        staged.rename(repository / "stripes/2")
        until(lambda: all(seen[2] for seen in load.seen) or bool(load.failures), seconds=60)
    assert load.failures == []
