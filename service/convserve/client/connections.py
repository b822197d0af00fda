"""Which of several connections the next RPC takes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Generic, TypeVar

C = TypeVar("C")

SUSPECT_SECONDS = 1.0
"""How long a connection is avoided after a failure. Without it, a connection whose server is gone would attract the
calls of all: failing at once, it is always the least busy."""


class Slot(Generic[C]):
    """A connection and what is known of it."""

    __slots__ = ("busy", "connection", "suspect_until")

    def __init__(self, connection: C) -> None:
        """Start idle and trusted."""
        self.connection = connection
        """What makes the calls."""
        self.busy = 0
        """RPCs under way."""
        self.suspect_until = 0.0
        """Reading of the clock until which others are taken first."""


class Pool(Generic[C]):
    """Hands out the least busy connection, in turn among equals; those that failed a moment ago last. Thread-safe."""

    def __init__(self, connections: Iterable[C], clock: Callable[[], float] = time.monotonic) -> None:
        """Hand out `connections`, of which there is at least one."""
        self._slots = [Slot(connection) for connection in connections]
        self._clock = clock
        self._lock = threading.Lock()
        self._turn = 0

    def __iter__(self) -> Iterator[C]:
        """All connections."""
        return iter([slot.connection for slot in self._slots])

    def take(self) -> Slot[C]:
        """Choose a connection for one RPC; give it back after."""
        with self._lock:
            now = self._clock()
            slots, count = self._slots, len(self._slots)
            best, best_rank, best_at = slots[0], (True, 2**62), 0
            for step in range(count):
                at = (self._turn + step) % count
                slot = slots[at]
                rank = (slot.suspect_until > now, slot.busy)
                if rank < best_rank:
                    best, best_rank, best_at = slot, rank, at
            best.busy += 1
            self._turn = (best_at + 1) % count
            return best

    def give_back(self, slot: Slot[C], *, failed: bool) -> None:
        """An RPC has ended. `failed`: its server could not be reached or is going away."""
        with self._lock:
            slot.busy -= 1
            slot.suspect_until = self._clock() + SUSPECT_SECONDS if failed else 0.0
