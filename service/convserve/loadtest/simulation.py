"""A simulation of our server, event by event, around the very queue that the server runs.

::

    arrival -> handling -> BatchQueue -> run -> handling -> answer

One processor does it all, in the order in which the work came up: a request's way in, the run of whatever waits by
then, and the way out of each of its requests. The first request after it was idle takes longer (`setup`). That is a
worker on one core; where a GPU or other cores run the model, `handling` was measured as what is left beside the runs.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from convserve.batching import Batch, BatchQueue, Item, QueueLimits
from convserve.errors import OverloadedError
from convserve.loadtest.arrivals import Times
from convserve.loadtest.service_times import ServiceTimes


@dataclass(frozen=True)
class Simulated:
    """What a simulation found."""

    latencies: npt.NDArray[np.float64]
    """Seconds from arrival to answer; infinite for requests that were refused."""
    batches: int
    """Runs of the model."""

    def percentile(self, share: float) -> float:
        """Seconds within which the share (0 to 1) of all requests was answered."""
        return float(np.quantile(self.latencies, share, method="inverted_cdf"))


def simulate(
    arrivals: Times,
    times: ServiceTimes,
    limits: QueueLimits | None = None,
    *,
    seed: int = 0,
    slowness: Callable[[float], float] = lambda _: 1.0,
) -> Simulated:
    """Let requests arrive at a batching server; one request is one row.

    Args:
        arrivals: when, in seconds, ascending.
        times: what the server's work takes.
        limits: of the queue; None: room for all, and no waiting for more rows.
        seed: of the draws from `times.besides`.
        slowness: how many times as long work takes that begins at a moment in seconds; for a machine whose speed
            changes.
    """
    limits = limits or QueueLimits(max_batch_size=times.most, max_queue_rows=10**9, max_queue_bytes=10**12)
    server = _Server(arrivals.tolist(), times, BatchQueue(limits, times.run), slowness)
    server.play()
    drawn = np.random.default_rng(seed).choice(np.array(times.besides), len(arrivals))
    return Simulated(np.array(server.latencies) + drawn, server.batches)


class _Server:
    """One processor and what it has to do."""

    def __init__(
        self, arrivals: list[float], times: ServiceTimes, queue: BatchQueue, slowness: Callable[[float], float]
    ) -> None:
        self.latencies = [math.inf] * len(arrivals)
        self.batches = 0
        self._arrivals = arrivals
        self._times = times
        self._half = times.handling / 2
        self._queue = queue
        self._slowness = slowness
        self._image = np.empty((1, 1), np.uint8)
        self._next = 0
        self._idle_since: float | None = 0.0
        self._work: deque[tuple[str, int]] = deque()
        self._numbers: dict[int, int] = {}
        self._run_planned = False
        self._run_at = math.inf
        """When the queue wants to be asked again, if it waits for more rows."""

    def play(self) -> None:
        """Work until every request is answered or refused."""
        now = 0.0
        while True:
            self._arrive(now)
            if now >= self._run_at and not self._run_planned:
                self._plan_run()
            if self._work:
                now = self._do(*self._work.popleft(), now)
                continue
            coming = self._arrivals[self._next] if self._next < len(self._arrivals) else math.inf
            then = min(coming, self._run_at)
            if then == math.inf:
                return
            if self._idle_since is None:
                self._idle_since = now
            now = max(now, then)

    def _arrive(self, now: float) -> None:
        while self._next < len(self._arrivals) and self._arrivals[self._next] <= now:
            self._work.append(("in", self._next))
            self._next += 1

    def _do(self, kind: str, number: int, now: float) -> float:
        """Do a piece of work. Returns when it is done."""
        if self._idle_since is not None:
            now += self._times.setup_after(now - self._idle_since)
            self._idle_since = None
        slow = self._slowness(now)
        if kind == "in":
            now += self._half * slow
            item = Item(self._image, _ignore)
            try:
                self._queue.offer(item, now)
            except OverloadedError:
                return now  # its latency stays infinite
            self._numbers[id(item)] = number
            if not self._run_planned:
                self._plan_run()
            return now
        if kind == "out":
            now += self._half * slow
            self.latencies[number] = now - self._arrivals[number]
            return now
        self._run_planned = False
        taken = self._queue.take(now)
        if not isinstance(taken, Batch):
            self._run_at = math.inf if taken is None else taken
            return now
        self.batches += 1
        end = now + self._times.run(taken.rows) * slow
        self._arrive(end)  # those that came meanwhile stand in line before the answers
        self._work.extend(("out", self._numbers.pop(id(part.item))) for part in taken.parts)
        if self._queue.rows or any(kind == "in" for kind, _ in self._work):
            self._plan_run()
        return end

    def _plan_run(self) -> None:
        self._run_planned = True
        self._run_at = math.inf
        self._work.append(("run", -1))


def _ignore(outcome: object, runs: object) -> None:
    """Answers are not looked at; who is answered when is known from the batch."""
