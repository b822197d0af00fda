"""Callers of the provided client, who go on until told to stop. Every answer is compared with what the model says."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from convserve import AsyncClient, Classification, Client
from support import versions
from support.waiting import until

CALLERS = 16
IMAGES = versions.random_images(64, seed=5)
EXPECTED = {version: versions.reference(IMAGES, seed=version - 1) for version in (1, 2)}
"""Probabilities that each version of the tests' small model must give."""
PAUSE_SECONDS = 0.002
"""What a caller does between two calls: without it, servers could hardly start on a small machine."""
WAYS = ("threads", "tasks", "threads without coalescing")


class Load:
    """Single images, one after the other for each caller, through one client with its default settings."""

    def __init__(self, target: str, way: str = WAYS[0]) -> None:
        """Start nothing yet. `way` is one of `WAYS`."""
        self._target, self._way = target, way
        self._stop = threading.Event()
        self.answered = [0] * CALLERS
        """Right answers of each caller."""
        self.failures: list[str] = []
        """Everything else."""
        self.seen: list[Counter[int]] = [Counter() for _ in range(CALLERS)]
        """Versions that answered each caller."""

    @contextmanager
    def running(self) -> Iterator[Load]:
        """Call until the block ends; before it and after it, every caller gets answers."""
        runner = threading.Thread(target=self._tasks if self._way == "tasks" else self._threads)
        runner.start()
        try:
            self.goes_on()
            yield self
            self.goes_on()
        finally:
            self._stop.set()
            runner.join(60)
        assert not runner.is_alive(), "a call hangs"

    def goes_on(self, answers: int = 20) -> None:
        """Return when every caller has got so many answers more, or somebody failed."""
        before = list(self.answered)
        until(
            lambda: (
                bool(self.failures) or all(now >= was + answers for now, was in zip(self.answered, before, strict=True))
            ),
            seconds=60,
        )

    def _threads(self) -> None:
        with Client(self._target, coalesce="without" not in self._way) as client:
            threads = [threading.Thread(target=self._call, args=(client, at)) for at in range(CALLERS)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()

    def _call(self, client: Client, at: int) -> None:
        turn = at
        while not self._stop.wait(PAUSE_SECONDS):
            turn = (turn + 1) % len(IMAGES)
            try:
                self._check(at, turn, client.classify(IMAGES[turn], model="stripes"))
            except Exception as error:  # noqa: BLE001  # all of them are what the test looks for
                self.failures.append(repr(error))

    def _tasks(self) -> None:
        async def call(client: AsyncClient, at: int) -> None:
            turn = at
            while not self._stop.is_set():
                await asyncio.sleep(PAUSE_SECONDS)
                turn = (turn + 1) % len(IMAGES)
                try:
                    self._check(at, turn, await client.classify(IMAGES[turn], model="stripes"))
                except Exception as error:  # noqa: BLE001  # all of them are what the test looks for
                    self.failures.append(repr(error))

        async def run() -> None:
            async with AsyncClient(self._target) as client:
                await asyncio.gather(*[call(client, at) for at in range(CALLERS)])

        asyncio.run(run())

    def _check(self, at: int, image: int, found: Classification) -> None:
        row = EXPECTED[found.model_version][image]
        if found.index != row.argmax() or abs(found.probability - row.max()) > 1e-5:
            self.failures.append(f"image {image} of version {found.model_version} was answered with {found}")
        self.answered[at] += 1
        self.seen[at][found.model_version] += 1
