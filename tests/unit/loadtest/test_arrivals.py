"""Arrivals of open loops: decided before the run, with the rate asked for."""

from __future__ import annotations

import numpy as np
import pytest

from convserve.errors import ConfigError
from convserve.loadtest import arrivals
from convserve.loadtest.arrivals import Profile


def test_a_constant_rate_is_evenly_spaced() -> None:
    """Ten a second for two seconds: twenty, a tenth of a second apart, from the start on."""
    assert arrivals.paced(arrivals.constant(10, 2)) == pytest.approx(np.arange(20) / 10)


def test_processes_share_paced_arrivals_without_gap_or_repetition() -> None:
    """Three processes together send exactly what one would."""
    profile = arrivals.ramp(10, 90, 1, 3)
    parts = [arrivals.paced(profile, part, 3) for part in range(3)]
    assert np.sort(np.concatenate(parts)) == pytest.approx(arrivals.paced(profile))


def test_a_ramp_rises_in_a_straight_line() -> None:
    """From 0 to 100 a second within ten seconds: the first half of the time gets a quarter of the requests."""
    times = arrivals.paced(Profile(((0, 0), (10, 100))))
    assert len(times) == 500
    assert np.sum(times < 5) == pytest.approx(125, abs=1)


def test_a_spike_has_its_peak_in_the_middle_fifth() -> None:
    """10 a second, 30 from second 5 to second 7, then 10 again, after one second of warm-up."""
    times = arrivals.paced(arrivals.spike(10, 30, 1, 10))
    counts, _ = np.histogram(times, bins=np.arange(12))
    assert counts.tolist() == [10] * 5 + [30] * 2 + [10] * 4


def test_counts_and_times_are_inverse() -> None:
    """The expected number of requests up to `times_of(count)` is `count`, also where the rate is 0 for a while."""
    profile = Profile(((0, 5), (2, 5), (2, 0), (4, 0), (4, 20), (6, 40)))
    counts = np.array([0, 3, 9.9, 10.5, 40, 69.9])
    times = profile.times_of(counts)
    grid = np.linspace(0, 6, 600_001)
    rates = np.array([profile.rate_at(second) for second in (1, 5, 6)])
    assert rates == pytest.approx([5, 30, 40])
    dense = np.interp(grid, [0, 2, 2 + 1e-9, 4, 4 + 1e-9, 6], [5, 5, 0, 0, 20, 40])
    integral = np.concatenate([[0], np.cumsum((dense[1:] + dense[:-1]) / 2 * np.diff(grid))])
    assert np.interp(times, grid, integral) == pytest.approx(counts, abs=0.01)


def test_poisson_gaps_are_exponential() -> None:
    """The mean gap is 1/rate, its deviation too, and the number of arrivals varies like a Poisson number."""
    times = arrivals.poisson(arrivals.constant(1000, 100), seed=3)
    gaps = np.diff(times)
    assert gaps.mean() == pytest.approx(1e-3, rel=0.02)
    assert gaps.std() == pytest.approx(1e-3, rel=0.02)
    counts, _ = np.histogram(times, bins=1000, range=(0, 100))
    assert counts.var() / counts.mean() == pytest.approx(1, abs=0.15)
    assert times[0] >= 0
    assert times[-1] < 100


def test_poisson_parts_add_up_to_the_rate() -> None:
    """Four processes with a quarter of the rate each; no two of them draw the same arrivals."""
    profile = arrivals.constant(200, 100)
    parts = [arrivals.poisson(profile, 7, part, 4) for part in range(4)]
    assert sum(map(len, parts)) == pytest.approx(20_000, rel=0.03)
    assert len(np.unique(np.concatenate(parts))) == sum(map(len, parts))


def test_the_seed_decides() -> None:
    """The same seed gives the same arrivals, another one others."""
    profile = arrivals.constant(50, 10)
    assert np.array_equal(arrivals.poisson(profile, 1), arrivals.poisson(profile, 1))
    assert not np.array_equal(arrivals.poisson(profile, 1)[:100], arrivals.poisson(profile, 2)[:100])


@pytest.mark.parametrize(
    "points", [((0, 1),), ((1, 1), (2, 1)), ((0, 1), (3, 1), (2, 1)), ((0, 0), (1, 0)), ((0, -1), (1, 5))]
)
def test_what_is_no_load_is_refused(points: tuple[tuple[float, float], ...]) -> None:
    """Too few points, a late start, time that runs back, no requests, negative rates."""
    with pytest.raises(ConfigError, match=r"rates|points"):
        Profile(points)
