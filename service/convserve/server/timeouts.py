"""Requests that end at a time which gRPC does not know, because it came in the message."""

from __future__ import annotations

import heapq
import itertools
import math
import threading
from weakref import WeakMethod

from convserve.errors import DeadlineError
from convserve.server.rpc import Cancel

_FEWEST_SIFTED = 1024
"""With fewer entries nobody looks which of them have been answered."""


class Timeouts:
    """What must be cancelled when. Thread-safe."""

    def __init__(self) -> None:
        """Wait for nothing."""
        self.waiting: list[tuple[float, int, WeakMethod[Cancel]]] = []
        """A heap: deadline, number, what to call. Weak: what has been answered goes before its time comes."""
        self._numbers = itertools.count()
        self._lock = threading.Lock()
        self._sift_at = _FEWEST_SIFTED

    def add(self, deadline: float, cancel: Cancel) -> None:
        """Have a request cancelled at a reading of the server's clock; `cancel` is a method of what it is about."""
        with self._lock:
            if len(self.waiting) >= self._sift_at:
                self._sift()
            heapq.heappush(self.waiting, (deadline, next(self._numbers), WeakMethod(cancel)))

    def end(self, now: float) -> float:
        """Cancel what is late, unless it has its answer. Returns the seconds until the next one; infinity: none."""
        waiting = self.waiting
        while waiting:
            with self._lock:
                if waiting[0][0] > now:
                    return waiting[0][0] - now
                cancel = heapq.heappop(waiting)[2]()
            if cancel is not None:
                cancel(DeadlineError("the deadline passed before the answer was there"))
        return math.inf

    def _sift(self) -> None:
        """Forget what has been answered: callers may name hours, and each answer would leave its entry until then."""
        self.waiting[:] = [entry for entry in self.waiting if entry[2]() is not None]
        heapq.heapify(self.waiting)
        self._sift_at = max(_FEWEST_SIFTED, 2 * len(self.waiting))
