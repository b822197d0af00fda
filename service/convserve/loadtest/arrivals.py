"""When requests of an open loop are due: decided before the run, whatever the server then does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from convserve.errors import ConfigError

Times: TypeAlias = NDArray[np.float64]
"""Seconds from the start of the run, ascending."""


@dataclass(frozen=True)
class Profile:
    """Requests per second over time: straight lines between points. Equal times make a step."""

    points: tuple[tuple[float, float], ...]
    """(second, requests per second), in the order of time; the first at second 0."""

    def __post_init__(self) -> None:
        """Check that it describes a load.

        Raises:
            ConfigError: says what is wrong.
        """
        times = [time for time, _ in self.points]
        if len(times) < 2 or times[0] != 0 or times != sorted(times):
            raise ConfigError(f"a load needs two or more points in the order of time, from 0 on; got {self.points}")
        if any(rate < 0 for _, rate in self.points) or self.total <= 0:
            raise ConfigError(f"rates must be 0 or more, and not all 0; got {self.points}")

    @property
    def seconds(self) -> float:
        """How long the load lasts."""
        return self.points[-1][0]

    @property
    def total(self) -> float:
        """Requests expected in all."""
        return float(self._cumulative()[-1])

    def rate_at(self, seconds: float) -> float:
        """Requests per second at a moment."""
        times, rates = np.array(self.points).T
        return float(np.interp(seconds, times, rates))

    def times_of(self, counts: Times) -> Times:
        """The moments at which so many requests are expected to have come: the inverse of the rate's integral."""
        times, rates = np.array(self.points, np.float64).T
        cumulative = self._cumulative()
        segment = np.clip(np.searchsorted(cumulative, counts, side="right") - 1, 0, len(times) - 2)
        width = np.diff(times)[segment]
        slope = np.divide(np.diff(rates)[segment], width, out=np.zeros_like(width), where=width > 0)
        start = rates[segment]
        left = counts - cumulative[segment]
        # start·t + slope/2·t² = left, in the form that also holds for slope 0
        root = np.sqrt(np.maximum(start**2 + 2 * slope * left, 0))
        inside = np.divide(2 * left, start + root, out=np.zeros_like(left), where=start + root > 0)
        return np.asarray(times[segment] + np.minimum(inside, width), np.float64)

    def _cumulative(self) -> Times:
        times, rates = np.array(self.points, np.float64).T
        areas = np.diff(times) * (rates[1:] + rates[:-1]) / 2
        return np.concatenate([[0.0], np.cumsum(areas)])


def constant(rate: float, seconds: float) -> Profile:
    """The same rate all the time."""
    return Profile(((0.0, rate), (seconds, rate)))


def ramp(first: float, last: float, warmup: float, seconds: float) -> Profile:
    """From one rate to another in a straight line, after a warm-up at the first."""
    return Profile(((0.0, first), (warmup, first), (warmup + seconds, last)))


def spike(base: float, peak: float, warmup: float, seconds: float) -> Profile:
    """A rate that jumps up for the middle fifth of the measured time."""
    begin, end = warmup + 0.4 * seconds, warmup + 0.6 * seconds
    whole = warmup + seconds
    return Profile(((0.0, base), (begin, base), (begin, peak), (end, peak), (end, base), (whole, base)))


def paced(profile: Profile, part: int = 0, parts: int = 1) -> Times:
    """Evenly spaced arrivals; of several processes, each takes every so-manieth."""
    return profile.times_of(np.arange(part, profile.total, parts, dtype=np.float64))


def poisson(profile: Profile, seed: int, part: int = 0, parts: int = 1) -> Times:
    """Arrivals of many independent callers: a Poisson process with the profile's rate.

    Each of several processes draws its own with its share of the rate; together they are a Poisson process again.
    """
    generator = np.random.Generator(np.random.MT19937([seed, part]))
    expected = profile.total / parts
    counts = np.empty(0)
    reached = 0.0
    while reached < expected:
        gaps = generator.exponential(size=int(expected - reached + 6 * (expected - reached) ** 0.5) + 16)
        more = reached + np.cumsum(gaps)
        counts = np.concatenate([counts, more])
        reached = float(counts[-1])
    return profile.times_of(counts[counts < expected] * parts)
