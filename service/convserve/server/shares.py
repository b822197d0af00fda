"""Keeps one model's callers from taking all the threads.

A call that waits for its batch holds a thread. While threads are plenty, everybody gets one; when they run short, a
model that holds its even share already is refused, so that there is always a thread for the others, and no line forms
in front of the pool where nobody would bound it.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from convserve.errors import OverloadedError

_RETRY_SECONDS = 0.05


class Shares:
    """Counts who holds how many of the server's threads. Thread-safe."""

    def __init__(self, threads: int) -> None:
        """Share out so many threads; of several, the last eighth goes to whoever holds less than an even share."""
        self._threads = threads
        self._plenty = max(1, threads - max(1, threads // 8))
        self._lock = threading.Lock()
        self._held: Counter[str] = Counter()
        self._total = 0

    @contextmanager
    def hold(self, model: str) -> Iterator[None]:
        """Hold a thread for a call to a model.

        Raises:
            OverloadedError: threads are short, and the model has its share.
        """
        with self._lock:
            share = self._total / max(len(self._held), 1)
            if self._total >= self._plenty and self._held[model] >= share:
                raise OverloadedError(
                    f"{self._total} of {self._threads} concurrent requests are under way, {self._held[model]} of them"
                    f" for {model!r}; try again, elsewhere if possible",
                    retry_after_seconds=_RETRY_SECONDS,
                )
            self._held[model] += 1
            self._total += 1
        try:
            yield
        finally:
            with self._lock:
                self._total -= 1
                self._held[model] -= 1
                if not self._held[model]:
                    del self._held[model]
