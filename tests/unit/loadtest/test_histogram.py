"""Latencies in the histogram keep their order and their size."""

from __future__ import annotations

import numpy as np
import pytest
from hdrh.histogram import HdrHistogram

from convserve.loadtest.histogram import Histogram


def filled(values: np.ndarray, digits: int = 3) -> Histogram:
    histogram = Histogram(digits)
    histogram.record(values)
    return histogram


@pytest.mark.parametrize(("digits", "error"), [(3, 1e-3), (2, 1e-2)])
def test_percentiles_are_as_exact_as_promised(digits: int, error: float) -> None:
    """Within 0.1 % or 1 % of the exact ones, over five orders of magnitude."""
    values = np.random.default_rng(0).lognormal(-6, 2, 20_000)
    histogram = filled(values, digits)
    for share in (0.01, 0.5, 0.9, 0.99, 0.999):
        exact = np.quantile(values, share, method="inverted_cdf")
        assert histogram.percentile(share) == pytest.approx(exact, rel=error * 1.01, abs=1e-6)
    assert histogram.mean == pytest.approx(values.mean(), rel=error)
    assert histogram.maximum == pytest.approx(values.max(), rel=error * 1.01)


@pytest.mark.parametrize("count", [1, 3, 99, 100, 101, 140, 151, 1499])
def test_a_share_is_within_its_percentile(count: int) -> None:
    """At least that share, and with one duration less not: HdrHistogram's own percentile rounds the place down too."""
    histogram = filled(np.arange(1, count + 1) * 0.01)
    for share in (0.5, 0.9, 0.95, 0.99, 0.999):
        within = count - histogram.above(histogram.percentile(share))
        assert within / count >= share - 1e-9 > (within - 1) / count - 1e-9


def test_ranks_and_bounds_agree() -> None:
    """The n-th latency and how many are longer than a bound."""
    histogram = filled(np.array([1, 2, 3, 4, 5]) * 0.1)
    assert histogram.at_rank(4) == pytest.approx(0.4, rel=1e-3)
    assert histogram.above(0.31) == 2
    assert histogram.above(9) == 0
    with pytest.raises(IndexError, match="place 6 of 5"):
        histogram.at_rank(6)


def test_it_can_be_read_by_other_tools() -> None:
    """The encoded form is HdrHistogram's own; values are microseconds."""
    decoded = HdrHistogram.decode(filled(np.array([0.01, 0.02])).encode())
    assert decoded.get_total_count() == 2
    assert decoded.get_max_value() == pytest.approx(20_000, rel=1e-3)


def test_an_empty_one_says_nothing() -> None:
    """No division by zero."""
    empty = Histogram()
    assert (empty.count, empty.mean, empty.maximum, empty.percentile(0.5), empty.above(1)) == (0, 0, 0, 0, 0)


def test_what_is_too_short_or_too_long_is_kept_at_the_edge() -> None:
    """A request that ended before it was meant to start (clocks) and one of hours are counted, not lost."""
    histogram = filled(np.array([-1.0, 0.0, 1e6]))
    assert histogram.count == 3
    assert histogram.percentile(0.5) == pytest.approx(1e-6)
