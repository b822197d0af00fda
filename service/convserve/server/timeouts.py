"""Requests that end at a time which gRPC does not know, because it came in the message."""

from __future__ import annotations

import heapq
import itertools
import math
from weakref import WeakMethod

from convserve.errors import DeadlineError
from convserve.server.rpc import Cancel


class Timeouts:
    """What must be cancelled when. Each method is one step of the interpreter on the heap: threads may add."""

    def __init__(self) -> None:
        """Wait for nothing."""
        self.waiting: list[tuple[float, int, WeakMethod[Cancel]]] = []
        """A heap: deadline, number, what to call. Weak: what has been answered goes before its time comes."""
        self._numbers = itertools.count()

    def add(self, deadline: float, cancel: Cancel) -> None:
        """Have a request cancelled at a reading of the server's clock; `cancel` is a method of what it is about."""
        heapq.heappush(self.waiting, (deadline, next(self._numbers), WeakMethod(cancel)))

    def end(self, now: float) -> float:
        """Cancel what is late, unless it has its answer. Returns the seconds until the next one; infinity: none."""
        waiting = self.waiting
        while waiting:
            if waiting[0][0] > now:
                return waiting[0][0] - now
            cancel = heapq.heappop(waiting)[2]()
            if cancel is not None:
                cancel(DeadlineError("the deadline passed before the answer was there"))
        return math.inf
