"""The clients against real servers that die, drain, restart and change their versions under load."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import convserve
from convserve import AsyncClient, Classification, Client
from support import versions
from support.server import ServerProcess, serving

CALLERS = 16
IMAGES = versions.random_images(64, seed=5)
EXPECTED = {version: versions.reference(IMAGES, seed=version - 1) for version in (1, 2)}


class Load:
    """Callers that go on until told to stop; every answer is compared with what the model must say."""

    def __init__(self, client: Client) -> None:
        """Start nothing yet."""
        self._client = client
        self._stop = threading.Event()
        self.answered = [0] * CALLERS
        """Right answers of each caller."""
        self.failures: list[str] = []
        """Everything else."""
        self.seen: list[Counter[int]] = [Counter() for _ in range(CALLERS)]
        """Versions that answered each caller."""
        self._threads = [threading.Thread(target=self._call, args=(at,)) for at in range(CALLERS)]

    def _call(self, at: int) -> None:
        for turn in range(10**9):
            if self._stop.is_set():
                return
            image = (at + turn) % len(IMAGES)
            try:
                found = self._client.classify(IMAGES[image], model="stripes")
            except Exception as error:  # noqa: BLE001  # all of them are what the test looks for
                self.failures.append(repr(error))
                continue
            row = EXPECTED[found.model_version][image]
            if found.index != row.argmax() or abs(found.probability - row.max()) > 1e-5:
                self.failures.append(f"image {image} of version {found.model_version} was answered with {found}")
            self.answered[at] += 1
            self.seen[at][found.model_version] += 1

    @contextmanager
    def running(self) -> Iterator[Load]:
        """Call until the block ends."""
        for thread in self._threads:
            thread.start()
        try:
            self.goes_on()
            yield self
            self.goes_on()
        finally:
            self._stop.set()
            for thread in self._threads:
                thread.join(30)

    def goes_on(self, answers: int = 20) -> None:
        """Return when every caller has got so many answers more, or somebody failed."""
        before = list(self.answered)
        until(
            lambda: (
                bool(self.failures) or all(now >= was + answers for now, was in zip(self.answered, before, strict=True))
            )
        )


def until(condition: Callable[[], bool], seconds: float = 60) -> None:
    give_up = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < give_up, "it did not happen in time"
        threading.Event().wait(0.02)


def workers(server: ServerProcess) -> list[int]:
    """Process ids of the workers."""
    by_thread = Path(f"/proc/{server.process.pid}/task").glob("*/children")
    return sorted(int(pid) for one in by_thread for pid in one.read_text().split())


def kill_a_worker(server: ServerProcess) -> None:
    """SIGKILL, and return when its place is taken."""
    victim = workers(server)[0]
    restarts = server.metric("convserve_worker_restarts_total")
    os.kill(victim, signal.SIGKILL)
    until(lambda: server.metric("convserve_worker_restarts_total") > restarts)
    until(lambda: server.http("/readyz")[0] == 200)


def both_ways(test: Callable[..., None]) -> Any:
    return pytest.mark.parametrize("coalesce", [True, False], ids=["coalesced", "single"])(test)


@both_ways
def test_a_killed_worker_fails_no_call(repository: Path, tmp_path: Path, coalesce: bool) -> None:
    """Its calls are repeated over other connections; twice, so that it may hit either worker."""
    with (
        serving(repository, tmp_path, "--workers", "2") as server,
        Client(server.target, coalesce=coalesce) as client,
        Load(client).running() as load,
    ):
        for _ in range(2):
            kill_a_worker(server)
            load.goes_on()
    assert load.failures == []


def test_a_killed_worker_fails_no_task(repository: Path, tmp_path: Path) -> None:
    """The same with the asynchronous client."""

    async def test(server: ServerProcess) -> list[BaseException]:
        answered, failures, stop = Counter[int](), list[BaseException](), asyncio.Event()

        async def call(at: int) -> None:
            while not stop.is_set():
                try:
                    found = await client.classify(IMAGES[at], model="stripes")
                    assert found.index == EXPECTED[1][at].argmax()
                    answered[at] += 1
                except Exception as error:  # noqa: BLE001  # all of them are what the test looks for
                    failures.append(error)

        async with AsyncClient(server.target) as client, asyncio.TaskGroup() as tasks:
            for at in range(CALLERS):
                tasks.create_task(call(at))
            await asyncio.to_thread(kill_a_worker, server)
            before = answered.total()
            async with asyncio.timeout(60):
                while answered.total() < before + 500 and not failures:
                    await asyncio.sleep(0.01)
            stop.set()
        return failures

    with serving(repository, tmp_path, "--workers", "2") as server:
        assert asyncio.run(test(server)) == []


def test_all_workers_are_used(repository: Path, tmp_path: Path) -> None:
    """Each connection is the kernel's throw of a coin; with 16 of them both workers get some."""
    with serving(repository, tmp_path, "--workers", "2") as server:
        with Client(server.target, connections=16, coalesce=False) as client:
            for _ in range(16):
                client.classify(IMAGES[0], model="stripes")
            sockets = [established(pid, server.ready["grpc_port"]) for pid in workers(server)]
        assert min(sockets) > 0
        assert sum(sockets) == 16


def established(pid: int, port: int) -> int:
    """Connections to a port that a process holds."""
    inodes = set()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        try:
            name = str(link.readlink())
        except OSError:
            continue
        if name.startswith("socket:["):
            inodes.add(name[8:-1])
    count = 0
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "01" and int(fields[1].rpartition(":")[2], 16) == port and fields[9] in inodes:
                count += 1
    return count


def test_a_version_swap_fails_no_call(repository: Path, tmp_path: Path) -> None:
    """Every answer is right for the version it names, and in the end all come from the new one."""
    with (
        serving(repository, tmp_path, "--workers", "2", "--repository-poll-interval", "0.1") as server,
        Client(server.target) as client,
        Load(client).running() as load,
    ):
        staged = versions.write_version(tmp_path / "staged", version=2, seed=1)
        staged.rename(repository / "stripes/2")
        until(lambda: all(seen[2] for seen in load.seen) or bool(load.failures))
    assert load.failures == []


@pytest.fixture
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
            servers[at] = start(servers[at].ready["grpc_port"])

        servers.extend((start(), start()))
        yield servers, restart


@both_ways
def test_a_rolling_restart_fails_no_call(
    two_servers: tuple[list[ServerProcess], Callable[[int], None]], coalesce: bool
) -> None:
    """One server drains and comes back, then the other; the client uses both before and after."""
    servers, restart = two_servers

    def calls(at: int) -> float:
        return servers[at].metric("convserve_requests_total", method="Classify", code="OK")

    target = "ipv4:" + ",".join(server.target for server in servers)
    with Client(target, coalesce=coalesce) as client, Load(client).running() as load:
        until(lambda: calls(0) > 10 and calls(1) > 10)
        for at in (0, 1):
            restart(at)
            until(lambda at=at: calls(at) > 10 or bool(load.failures))  # type: ignore[misc]
    assert load.failures == []


def test_a_drained_server_is_left_at_once(
    two_servers: tuple[list[ServerProcess], Callable[[int], None]],
) -> None:
    """It says NOT_SERVING first; nobody fails, and it ends without having to cut a call."""
    servers, _ = two_servers
    with (
        Client("ipv4:" + ",".join(server.target for server in servers), retry=convserve.Retry()) as client,
        Load(client).running() as load,
    ):
        assert servers[0].stop() == 0
        load.goes_on()
    assert load.failures == []
    (drained,) = (event for event in servers[0].log_events() if event["event"] == "drained")
    assert drained["requests_cut"] == 0


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    root = tmp_path_factory.mktemp("served")
    versions.write_version(root / "repository")
    with serving(root / "repository", root) as running:
        yield running


def test_good_and_bad_images_of_many_threads(server: ServerProcess) -> None:
    """Pixels, damaged files and pixels of a wrong shape at once: each gets what it would get alone."""
    outcomes: list[Classification | Exception | None] = [None] * 90
    barrier = threading.Barrier(len(outcomes))

    def call(at: int) -> None:
        kinds: list[Any] = [IMAGES[at % 64], b"\x89PNG damaged", np.zeros((7, 8, 1), np.uint8)]
        barrier.wait(30)
        try:
            outcomes[at] = client.classify(kinds[at % 3], model="stripes", explain=True)
        except convserve.ConvserveError as error:
            outcomes[at] = error

    with Client(server.target) as client:
        threads = [threading.Thread(target=call, args=(at,)) for at in range(len(outcomes))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
    for at, outcome in enumerate(outcomes):
        if at % 3 == 0:
            assert isinstance(outcome, Classification)
            assert outcome.index == EXPECTED[1][at % 64].argmax()
            assert outcome.batch is not None
        else:
            assert isinstance(outcome, convserve.InvalidRequestError)
            assert outcome.violations[0].field == ("encoded.images[0]" if at % 3 == 1 else "packed.shape")


def test_a_stream(server: ServerProcess) -> None:
    """A thousand images through both clients, in order."""
    images = versions.random_images(1000, seed=9)
    expected = versions.reference(images).argmax(1).tolist()
    with Client(server.target) as client:
        assert [one.index for one in client.classify_iter(iter(images), model="stripes")] == expected

    async def test() -> list[int]:
        async with AsyncClient(server.target) as other:
            return [one.index async for one in other.classify_iter(images, model="stripes")]

    assert asyncio.run(test()) == expected
