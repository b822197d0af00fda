"""Early stopping, against LoadGen's published figures and against the binomial distribution written out."""

from __future__ import annotations

import math

import pytest

from convserve.loadtest import confidence


@pytest.mark.parametrize(
    ("slow", "percentile", "requests"), [(0, 0.99, 459), (1, 0.9, 64), (1, 0.99, 662), (0, 0.9, 44)]
)
def test_the_counts_are_loadgens(slow: int, percentile: float, requests: int) -> None:
    """459 for p99 without a slow one; 64 for SingleStream's p90 and 662 for p99, the least that LoadGen names."""
    assert confidence.needed_requests(slow, percentile) == requests
    assert confidence.most_slow(requests, percentile) == slow


def test_too_few_requests_show_nothing() -> None:
    """One fewer than the least is not enough, even if all were fast; with 0 slow ones allowed there is no estimate."""
    assert confidence.most_slow(458, 0.99) is None
    assert confidence.estimate_rank(500, 0.99) is None
    assert confidence.estimate_rank(661, 0.99) is None
    assert confidence.estimate_rank(662, 0.99) == 662


def test_the_estimate_discards_as_many_as_loadgen() -> None:
    """Of 100 queries LoadGen discards the two slowest for p90: the estimate is the 98th latency."""
    assert confidence.estimate_rank(100, 0.9) == 98


@pytest.mark.parametrize("percentile", [0.5, 0.9, 0.99])
@pytest.mark.parametrize("requests", [10, 77, 500, 1000])
def test_it_is_the_binomial_tail(requests: int, percentile: float) -> None:
    """The most slow requests are the largest number whose lower tail is at most 1 %."""
    slow = 1 - percentile

    def tail(most: int) -> float:
        return math.fsum(math.comb(requests, k) * slow**k * percentile ** (requests - k) for k in range(most + 1))

    most = confidence.most_slow(requests, percentile)
    if most is None:
        assert tail(0) > 0.01
    else:
        assert tail(most) <= 0.01 < tail(most + 1)


def test_many_requests_need_almost_no_margin() -> None:
    """With 270,336 requests, MLPerf's count for p99, 2,583 may be slow: 0.044 points short of 1 %."""
    assert confidence.most_slow(270_336, 0.99) == 2583
    assert confidence.most_slow(10_000_000, 0.99) == pytest.approx(100_000, rel=0.01)
