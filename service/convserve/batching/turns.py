"""Batches run by the thread that brings the work, one batcher after the other.

A thread that reads requests off the network loses nothing by computing them itself once nothing more has arrived, and
saves two changes of thread for each batch. While it computes it hears nobody, so it only takes batches that are short.
"""

from __future__ import annotations

from collections import deque

from convserve.batching.batcher import Batcher

SHORT_SECONDS = 0.002
"""How long one turn may compute. Measured on a CPU, a row of a small network costs the same in a batch of this length
as in one ten times as long; and whoever calls another model waits for one turn, not for a whole batch."""


class Turns:
    """Batchers with rows that wait for one thread, in turn. Not thread-safe: it belongs to that thread."""

    def __init__(self) -> None:
        """Have nothing to do."""
        self._line: deque[Batcher] = deque()

    def __bool__(self) -> bool:
        """Whether rows wait."""
        return bool(self._line)

    def add(self, batcher: Batcher) -> None:
        """Note that rows were submitted to a batcher, without waking its own threads."""
        if batcher not in self._line:
            self._line.append(batcher)

    def run_one(self) -> None:
        """Run one batch of the batcher whose turn it is."""
        batcher = self._line.popleft()
        if batcher.run_one(SHORT_SECONDS):
            self._line.append(batcher)
