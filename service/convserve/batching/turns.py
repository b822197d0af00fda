"""Batches run by the thread that brings the work, one batcher after the other.

A thread that reads requests off the network loses nothing by computing them itself once nothing more has arrived, and
saves two changes of thread for each batch. While it computes it hears nobody, so it takes only batches that are short,
the shorter when there are others to hear.
"""

from __future__ import annotations

from weakref import WeakKeyDictionary

from convserve.batching.batcher import Batcher
from convserve.clock import Clock, monotonic

SHORT_SECONDS = 0.002
"""How long one turn computes, and up to twice that where a request would be torn apart. Measured on a CPU, a row of a
small network costs the same in a batch of this length as in one ten times as long; and whoever calls another model
waits for one turn, not for a whole batch."""

LONG_SECONDS = 0.008
"""The same while a batcher has the thread to itself: a turn has a cost of its own."""

SHARED_SECONDS = 1.0
"""How long turns stay short after the thread had something else to do."""


class Turns:
    """Batchers with rows that wait for one thread. Not thread-safe: it belongs to that thread.

    The next turn is for whoever has computed least, as Linux shares a processor: a model that is asked now and then
    runs at once, and one that is flooded gets what the others leave. A batcher that comes back after a pause has saved
    nothing up: it starts where the one that ran last started. A batcher that has the thread to itself has long turns.
    """

    def __init__(self, clock: Clock = monotonic) -> None:
        """Have nothing to do."""
        self._clock = clock
        self._waiting: set[Batcher] = set()
        self._used: WeakKeyDictionary[Batcher, float] = WeakKeyDictionary()
        self._start = 0.0
        self._last_added = 0  # the batcher's id
        self._shared_until = 0.0

    def __bool__(self) -> bool:
        """Whether rows wait."""
        return bool(self._waiting)

    def add(self, batcher: Batcher) -> None:
        """Note that rows were submitted to a batcher, without waking its own threads."""
        if id(batcher) != self._last_added:
            self._last_added = id(batcher)
            self.share()
        if batcher not in self._waiting:
            self._waiting.add(batcher)
            self._used[batcher] = max(self._used.get(batcher, 0.0), self._start)

    def share(self) -> None:
        """Note that the thread has something else to do: for a while its turns are short."""
        self._shared_until = self._clock() + SHARED_SECONDS

    def run_one(self) -> None:
        """Run one batch of the batcher whose turn it is."""
        batcher = min(self._waiting, key=self._used.__getitem__)
        self._start = self._used[batcher]
        began = self._clock()
        if not batcher.run_one(SHORT_SECONDS if began < self._shared_until else LONG_SECONDS):
            self._waiting.discard(batcher)
        self._used[batcher] = self._start + self._clock() - began
