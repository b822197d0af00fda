"""How long a batch takes, by its size: measured at warm-up, kept fresh while serving."""

from __future__ import annotations

import bisect

_MOST_TIMES = 4.0
"""A reading counts as so many times the mean at most: while a machine pauses for seconds, no batch gets slower."""


class BatchTimes:
    """Seconds per batch by padded size.

    Sizes that were never measured are interpolated between their neighbours. A size that takes longer than the same
    rows in smaller batches is believed less and less while smaller ones run: whoever chooses sizes by these times runs
    no more batches of a size that once seemed slow, and would never learn that it is not. Written by the thread that
    runs batches and read by those that admit requests; a float read a moment early does no harm, so there is no lock.
    """

    def __init__(self, measured: dict[int, float], weight: float = 0.1) -> None:
        """Start from the measured seconds of at least one size; `weight` is how far one new reading moves the mean."""
        if not measured:
            raise ValueError("BatchTimes needs the time of at least one batch size; got none")
        self._sizes = sorted(measured)
        self._seconds = dict(measured)
        self._weight = weight

    @property
    def sizes(self) -> list[int]:
        """The sizes that were measured at the start, ascending."""
        return self._sizes

    def record(self, size: int, seconds: float) -> None:
        """Take in how long a batch of `size` rows took. Sizes that were not warmed move their nearest neighbour."""
        index = min(bisect.bisect_left(self._sizes, size), len(self._sizes) - 1)
        nearest = self._sizes[index]
        expected = self.predict(size)
        known = self._seconds[nearest]
        scaled = seconds if nearest == size or expected <= 0 else known * seconds / expected
        self._seconds[nearest] = known + self._weight * (min(scaled, _MOST_TIMES * known) - known)
        for larger in self._sizes[index + 1 :]:  # no batch takes longer than its rows in smaller ones, for long
            in_pieces = self._seconds[nearest] * larger / nearest
            if self._seconds[larger] > in_pieces:
                self._seconds[larger] += self._weight * (in_pieces - self._seconds[larger])

    def predict(self, size: int) -> float:
        """Expected seconds of a batch of `size` rows."""
        index = bisect.bisect_left(self._sizes, size)
        if index == len(self._sizes):
            largest = self._sizes[-1]
            return self._seconds[largest] * size / largest
        upper = self._sizes[index]
        if upper == size or index == 0:
            return self._seconds[upper]
        lower = self._sizes[index - 1]
        share = (size - lower) / (upper - lower)
        return self._seconds[lower] * (1 - share) + self._seconds[upper] * share

    def table(self) -> dict[int, float]:
        """Seconds by measured size."""
        return dict(self._seconds)
