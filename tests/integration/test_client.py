"""The clients against real servers. What happens when those die is under `tests/chaos`."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import convserve
from convserve import AsyncClient, Classification, Client
from support import versions
from support.load import EXPECTED, IMAGES
from support.server import ServerProcess, serving


def workers(server: ServerProcess) -> list[int]:
    """Process ids of the workers."""
    by_thread = Path(f"/proc/{server.process.pid}/task").glob("*/children")
    return sorted(int(pid) for one in by_thread for pid in one.read_text().split())


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
