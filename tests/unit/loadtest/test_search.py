"""The search for the highest rate, on servers that are functions."""

from __future__ import annotations

import random

import pytest

from convserve.loadtest.search import CONFIRMATIONS, PRECISION, search


@pytest.mark.parametrize("start", [1, 100, 977, 5000, 100_000])
@pytest.mark.parametrize("limit", [13.0, 1000.0, 42_000.0])
def test_it_finds_the_limit_from_anywhere(start: float, limit: float) -> None:
    """Within the precision, and never above."""
    found = search(lambda rate: rate <= limit, start)
    assert limit / (1 + PRECISION) <= found.rate <= limit


def test_the_rate_found_has_passed_again_and_again() -> None:
    """The last tries are repetitions of the rate, all of them passed."""
    found = search(lambda rate: rate <= 1000, 100)
    assert found.tries[-CONFIRMATIONS:] == [(found.rate, True)] * CONFIRMATIONS


def test_luck_is_not_believed() -> None:
    """Where rates a fifth above the limit pass now and then, the rate found lies lower than what passed once."""
    generator = random.Random(5)

    def passes(rate: float) -> bool:
        return rate <= 1000 or (rate < 1200 and generator.random() < 0.5)

    for _ in range(50):
        found = search(passes, 300)
        assert 900 < found.rate < 1200
        assert all(passed for rate, passed in found.tries[-CONFIRMATIONS:] if rate == found.rate)


def test_a_server_that_keeps_nothing_is_given_up() -> None:
    """Below the lowest rate nothing is tried; the answer is 0."""
    found = search(lambda rate: False, 64)
    assert found.rate == 0
    assert min(rate for rate, _ in found.tries) >= 1
