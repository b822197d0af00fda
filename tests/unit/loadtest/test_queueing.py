"""The queueing model with batches of thousands: bounded work, and still the simulation's answer."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from convserve.loadtest import arrivals, queueing, simulation
from convserve.loadtest.service_times import ServiceTimes

MANY = ServiceTimes(0.002, 2e-6, 0.0, 4096)


@pytest.mark.parametrize("load", [0.3, 0.7])
def test_model_and_simulation_agree_where_batches_hold_thousands(load: float) -> None:
    """States that are many are not all told apart; the percentiles do not notice."""
    rate = load * MANY.capacity
    p50, p99 = queueing.percentiles(MANY, rate, [0.5, 0.99])
    found = simulation.simulate(arrivals.poisson(arrivals.constant(rate, 60_000 / rate), 3), MANY)
    assert p50 == pytest.approx(found.percentile(0.5), rel=0.02)
    assert p99 == pytest.approx(found.percentile(0.99), rel=0.02)


def test_memory_is_bounded() -> None:
    """It does not grow with the square of the batch size, nor with the batch size."""
    times = ServiceTimes(0.002, 2e-6, 0.0, 100_000)
    tracemalloc.start()
    try:
        queueing.percentiles(times, 0.9 * times.capacity, [0.99])
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 500e6


@pytest.mark.parametrize("mean", [0.01, 3.0, 250.0, 5000.0, 1e6])
def test_numbers_of_arrivals_have_the_mean_and_spread_of_poissons(mean: float) -> None:
    """Also where only some numbers stand for all."""
    numbers, chances = queueing._arrivals(mean)
    assert len(numbers) < 500
    assert numbers @ chances == pytest.approx(mean, rel=1e-6)
    assert (numbers - mean) ** 2 @ chances == pytest.approx(mean, rel=1e-4)


def test_few_states_are_all_told_apart() -> None:
    """Of many ever fewer are, never further apart than half a percent or an eighth of their deviation."""
    states = queueing._states(100_000)
    assert states[:257].tolist() == list(range(257))
    assert (np.diff(states) <= np.maximum(np.sqrt(states[:-1]) / 8, states[:-1] / 200).clip(1)).all()
    assert len(states) < 1500
