"""Measurements that other programs disturb are repeated, as long as there is time."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from benchmarks import common

DISTURBED_CORES = 0.1
"""Cores that other programs may use meanwhile."""

T = TypeVar("T")


class Quiet:
    """Repeats what was disturbed."""

    def __init__(self, server: common.Running, seconds: float) -> None:
        """Repeat for so many seconds at most. The server's and this process's own CPU time are no disturbance."""
        self._server = server
        self._ends = time.monotonic() + seconds
        self.thrown_away = 0
        """Measurements that were repeated."""
        self.disturbed_kept = 0
        """Measurements that were kept although they were disturbed, because time was up."""

    @property
    def time_is_up(self) -> bool:
        """Whether nothing is repeated any more."""
        return time.monotonic() >= self._ends

    def __call__(self, measure: Callable[[], T]) -> T:
        """Measure, again if need be."""
        while True:
            self._await_silence()
            others, started = self._others(), time.perf_counter()
            found = measure()
            if (self._others() - others) / (time.perf_counter() - started) <= DISTURBED_CORES:
                return found
            if self.time_is_up:
                self.disturbed_kept += 1
                return found
            self.thrown_away += 1

    def _await_silence(self) -> None:
        """Return when nobody else has computed for a moment, or time is up."""
        while not self.time_is_up:
            others = self._others()
            time.sleep(0.2)
            if self._others() - others <= DISTURBED_CORES * 0.2:
                return

    def _others(self) -> float:
        """Seconds of CPU that other programs have used so far."""
        spent = sum(map(int, Path("/proc/stat").read_text().split(maxsplit=4)[1:4]))  # user, nice, system
        return spent / os.sysconf("SC_CLK_TCK") - sum(os.times()[:2]) - self._server.cpu_seconds()
