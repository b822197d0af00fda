"""The simulation of several processes and one device does what can be worked out without it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from benchmarks.device_simulation import Arrival, Costs, Device, one_executor, own_sessions, poisson
from convserve.loadtest import queueing
from convserve.loadtest.service_times import ServiceTimes

FREE = Costs(handling=0.0)
DESIGNS = pytest.mark.parametrize("simulate", [own_sessions, one_executor])


@DESIGNS
def test_single_rows_wait_as_in_m_d_1(simulate: Callable[..., np.ndarray]) -> None:
    """Batches of one row: the mean wait is load / (2 (1 - load)) service times (Pollaczek and Khinchine)."""
    load, service = 0.6, 0.001
    arrivals = poisson(load / service, 120.0, 1, seed=3)
    latencies = simulate(arrivals, 1, Device(fixed=service, each=0.0, most=1), FREE)
    assert latencies.mean() == pytest.approx(service * (1 + load / (2 * (1 - load))), rel=0.03)


@DESIGNS
def test_batches_of_one_front_end_are_as_in_theory(simulate: Callable[..., np.ndarray]) -> None:
    """One queue before one device is M/D^[1,B]/1, whose percentiles are known from its Markov chain."""
    times = ServiceTimes(fixed=0.002, each=0.0001, handling=0.0, most=32)
    rate = 0.7 * times.capacity
    latencies = simulate(poisson(rate, 20.0, 1, seed=5), 1, Device(times.fixed, times.each, times.most), FREE)
    expected = queueing.percentiles(times, rate, [0.5, 0.99])
    assert np.quantile(latencies, [0.5, 0.99]) == pytest.approx(expected, rel=0.05)


TWO: list[Arrival] = [(0.0, 0), (0.0, 1), (0.5, 0), (0.5, 1)]


def test_front_ends_of_their_own_take_turns_on_the_device() -> None:
    """Worked by hand: runs of 1 + 1 n seconds and 0.25 for changing over, one row each, end at 2, 4.25, 6.5, 8.75."""
    latencies = own_sessions(TWO, 2, Device(fixed=1.0, each=1.0, switch=0.25), FREE)
    assert latencies.tolist() == [2.0, 4.25, 6.0, 8.25]


def test_one_executor_puts_the_rows_of_all_together() -> None:
    """Worked by hand: the first row runs alone until 2; what came meanwhile runs together until 2 + 1 + 3."""
    assert one_executor(TWO, 2, Device(fixed=1.0, each=1.0), FREE).tolist() == [2.0, 6.0, 5.5, 5.5]


def test_what_passes_between_processes_costs_both_sides() -> None:
    """Worked by hand: 1 + 8 + 32 s in, a run of 100 s, 16 + 8 + 32 s back, and 16 + 8 + 1 s out."""
    costs = Costs(handling=2.0, row=4.0, message=16.0, hop=32.0)
    (latency,) = one_executor([(0.0, 0)], 1, Device(fixed=100.0, each=0.0), costs)
    assert latency == (1 + 4) + 32 + 4 + 100 + (16 + 4) + 32 + 16 + (4 + 1)


@DESIGNS
def test_a_front_end_answers_no_more_than_its_core_can(simulate: Callable[..., np.ndarray]) -> None:
    """Five requests of 1 s each at once, on a device that takes no time to speak of: the last is done after 5 s."""
    latencies = simulate([(0.0, 0)] * 5, 1, Device(fixed=1e-9, each=0.0), Costs(handling=1.0))
    assert latencies.max() == pytest.approx(5.0)


def test_driving_the_device_takes_time_of_the_process_that_does() -> None:
    """Worked by hand: the core drives a run from 0.25 to 3.25 and takes the next request in after that, until 3.5.

    The first one is out at 3.75; the second run is formed then, and ends at 6.75; its row is out at 7.
    """
    latencies = own_sessions([(0.0, 0), (0.5, 0)], 1, Device(fixed=3.0, each=0.0, drive=3.0), Costs(handling=0.5))
    assert latencies.tolist() == [3.75, 6.5]
