"""Latencies in an HDR histogram: constant memory, the same relative error everywhere, mergeable."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

_MICROSECONDS = 1e6
_LONGEST_MICROSECONDS = 3_600_000_000
_TOGETHER = 20_000
"""Durations that are counted together."""


class Histogram:
    """Durations from 1 µs to an hour. `digits` significant digits: 3 err by at most 0.1 %, 2 by 1 %."""

    def __init__(self, digits: int = 3) -> None:
        """Start empty."""
        from hdrh.histogram import HdrHistogram

        self._hdr: Any = HdrHistogram(1, _LONGEST_MICROSECONDS, digits)
        self._waiting: list[NDArray[np.int64]] = []
        self._waiting_count = 0

    def record(self, seconds: NDArray[np.floating[Any]]) -> None:
        """Take durations in; those below 1 µs count as 1 µs."""
        self._waiting.append(np.clip(np.rint(seconds * _MICROSECONDS), 1, _LONGEST_MICROSECONDS).astype(np.int64))
        self._waiting_count += len(seconds)
        if self._waiting_count >= _TOGETHER:
            self._flush()

    @property
    def _histogram(self) -> Any:
        if self._waiting_count:
            self._flush()
        return self._hdr

    def _flush(self) -> None:
        """Count what waits. Many at once hold many equal ones, of which each is one call."""
        values, counts = np.unique(np.concatenate(self._waiting), return_counts=True)
        for value, count in zip(values.tolist(), counts.tolist(), strict=True):
            self._hdr.record_value(value, count)
        self._waiting, self._waiting_count = [], 0

    @property
    def count(self) -> int:
        """Durations taken in."""
        return int(self._histogram.get_total_count())

    @property
    def mean(self) -> float:
        """Mean in seconds; 0 when empty."""
        return float(self._histogram.get_mean_value()) / _MICROSECONDS if self.count else 0.0

    @property
    def maximum(self) -> float:
        """Longest in seconds; 0 when empty."""
        return float(self._histogram.get_max_value()) / _MICROSECONDS if self.count else 0.0

    def percentile(self, share: float) -> float:
        """Seconds within which the share (0 to 1) of all durations was; 0 when empty."""
        if not self.count:
            return 0.0
        place = max(math.ceil(share * self.count - 1e-9), 1)  # HdrHistogram would round to the nearest
        return float(self._histogram.get_value_at_percentile(100 * place / self.count)) / _MICROSECONDS

    def at_rank(self, rank: int) -> float:
        """The duration at a place, from 1, in ascending order, in seconds. As exact as the histogram."""
        for item in self._histogram.get_recorded_iterator():
            if item.total_count_to_this_value >= rank:
                return float(item.value_iterated_to) / _MICROSECONDS
        raise IndexError(f"there is no duration at place {rank} of {self.count}")

    def above(self, seconds: float) -> int:
        """Durations longer than a bound, as exact as the histogram."""
        bound = seconds * _MICROSECONDS + 1e-3  # recorded ones are whole microseconds; seconds are rounded
        within = 0
        for item in self._histogram.get_recorded_iterator():
            if item.value_iterated_to > bound:
                break
            within = item.total_count_to_this_value
        return self.count - within

    def curve(self) -> list[tuple[float, float]]:
        """(share of durations, seconds) at every recorded value, ascending."""
        total = self.count
        return [
            (item.total_count_to_this_value / total, item.value_iterated_to / _MICROSECONDS)
            for item in self._histogram.get_recorded_iterator()
        ]

    def encode(self) -> str:
        """HdrHistogram's own interchange format (V2, compressed, base64); values are microseconds."""
        blob: bytes = self._histogram.encode()
        return blob.decode()
