"""Who decides when the next request goes: the clock (open loop) or the answers (closed loop)."""

from __future__ import annotations

import heapq
from typing import Protocol

import numpy as np

from convserve.loadtest.arrivals import Times


class Pacing(Protocol):
    """Gives requests out. All times are seconds from the start of the run."""

    def take(self, now: float) -> float | None:
        """The intended start of a request that is due, which must be sent now; None: none is due."""

    def next_due(self, now: float) -> float | None:
        """When to look again; None: not before a request has ended."""

    def ended(self, now: float) -> None:
        """A request has ended; whoever waited for it goes on at `now`, which may lie a little ahead."""

    def finished(self, now: float) -> bool:
        """Whether no more requests will come."""


class OpenLoop:
    """Requests at moments that were decided before. A slow server changes nothing about them."""

    def __init__(self, times: Times) -> None:
        """Send at these times, ascending."""
        self._times = times.tolist()
        self._next = 0

    def take(self, now: float) -> float | None:
        """The next arrival, if its time has come."""
        if self._next < len(self._times) and self._times[self._next] <= now:
            self._next += 1
            return float(self._times[self._next - 1])
        return None

    def next_due(self, now: float) -> float | None:  # noqa: ARG002  # the same whenever it is asked
        """The time of the next arrival."""
        return self._times[self._next] if self._next < len(self._times) else None

    def ended(self, now: float) -> None:
        """Arrivals do not wait for answers."""

    def finished(self, now: float) -> bool:  # noqa: ARG002
        """Whether all arrivals have come."""
        return self._next == len(self._times)


class ClosedLoop:
    """As many requests in flight as there are callers, each of which asks again as soon as it is answered.

    The intended start of a request is the moment its caller was free.
    """

    def __init__(
        self, callers: int, until: float, count: int | None = None, *, pause: float = 0.0, seed: int = 0
    ) -> None:
        """Keep `callers` requests in flight until a time, and then `count` more requests, if that is given.

        With a `pause`, each caller waits for so many seconds on average, exponentially distributed by `seed`, before it
        is free again.
        """
        self._free = [0.0] * callers
        """When each caller is free, a heap."""
        self._until = until
        self._left = count or 0
        self._pause = pause
        self._random = np.random.default_rng(seed)

    def take(self, now: float) -> float | None:
        """Since when a caller is free, if one is and more is to be sent."""
        if not self._free or self._free[0] > now or self.finished(now):
            return None
        freed = heapq.heappop(self._free)
        if now < self._until:
            return freed
        self._left -= 1
        return max(freed, self._until)  # whoever was free before the count began asks when it begins

    def next_due(self, now: float) -> float | None:
        """When the next caller is free; None when only an answer frees one."""
        return self._free[0] if self._free and not self.finished(now) else None

    def ended(self, now: float) -> None:
        """A caller is free again, from `now` and its pause on."""
        heapq.heappush(self._free, now + self._random.exponential(self._pause) if self._pause else now)

    def finished(self, now: float) -> bool:
        """Whether time and count are used up."""
        return now >= self._until and self._left <= 0
