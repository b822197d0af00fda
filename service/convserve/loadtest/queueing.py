"""Latency of a batching server from theory: Poisson arrivals, service in batches whose time grows with their size.

The model is M/D^[1,B]/1 with dynamic batching and setup: a free server takes all that waits, at most B requests, and
answers them together after `fixed + each * n` seconds; one that was idle needs its setup time first (see Y. Inoue,
"Queueing analysis of GPU-based inference servers with dynamic batching: a closed-form characterization", Performance
Evaluation 147, 2021, who bounds its mean without setup). Here the whole distribution is computed: the number of
requests present when a batch starts is a Markov chain, its stationary distribution is solved for, and every request
that arrives while a batch runs is followed to its answer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from convserve.loadtest.service_times import ServiceTimes

Floats = npt.NDArray[np.float64]

ASSUMPTIONS = (
    "requests arrive as a Poisson process, and each replica gets an equal and independent share of them",
    "one batch runs at a time, a free server takes everything that waits up to a full batch, first come first served",
    "a batch of n takes fixed + each * n seconds; RPC work of requests is done one by one, between batches",
    "neither varies: a machine that pauses, or whose speed changes, has higher percentiles",
    "a request that finds the server idle waits longer, by how long it was so; besides, requests always take the same",
    "the queue is long enough that nothing is refused",
)
"""What the model takes for granted."""

HIGHEST_LOAD = 0.97
"""Share of capacity above which nothing is predicted: there, latency depends on what happened minutes ago."""

_MOMENTS = 48
"""Points at which a request may arrive within a batch."""
_MOST_STATES = 1000
"""Of the chain: once it has so many it is not made longer."""


def percentiles(times: ServiceTimes, rate: float, shares: Sequence[float]) -> list[float]:
    """Latency percentiles in seconds at a rate in requests per second; infinite above `HIGHEST_LOAD`."""
    if rate > times.capacity * HIGHEST_LOAD:
        return [math.inf] * len(shares)
    times = times.at(rate)
    latencies, weights = _within(times, rate)
    order = np.argsort(latencies)
    latencies, weights = latencies[order], weights[order]
    places = np.cumsum(weights) / weights.sum()
    # the sum of two independent times: quantiles of one, each with all quantiles of the other
    fine = latencies[np.minimum(np.searchsorted(places, (np.arange(4000) + 0.5) / 4000), len(latencies) - 1)]
    sums = np.sort((fine[:, None] + np.array(times.besides)[None, :]).ravel())
    return [float(sums[min(int(share * len(sums)), len(sums) - 1)]) for share in shares]


def _within(times: ServiceTimes, rate: float) -> tuple[Floats, Floats]:
    """Times in queue and batch, and how often each comes."""
    setup = times.setup_after(1 / rate)  # idleness ends with the next arrival
    most = times.most
    latencies: list[Floats] = []
    weights: list[Floats] = []
    idle = 0.0
    for state, probability in zip(*_starts(times, rate, setup), strict=True):
        if probability < 1e-12:
            continue
        left, seconds = _step(times, state, setup)
        arrivals, chances = _arrivals(rate * seconds)
        if left == 0:
            idle += probability * math.exp(-rate * seconds)
        others = arrivals[:, None]  # besides the request that is followed
        moment = (np.arange(_MOMENTS)[None, :] + 0.5) / _MOMENTS
        place = left + 1 + others * moment  # those that came before it, on average
        rounds = np.ceil(place / most) - 1  # full batches that go first
        behind = rate * rounds * times.batch(most)  # who comes while they run, on average
        size = np.clip(left + 1 + others + behind - rounds * most, 1, most)
        own = np.clip(place - rounds * most, 1, size)  # its place in its batch: replies leave one after the other
        answer = times.fixed + times.each * size + times.handling * (size + own) / 2
        latency = seconds * (1 - moment) + rounds * times.batch(most) + answer
        weight = probability * rate * seconds * chances[:, None] / _MOMENTS
        latencies.append(latency.ravel())
        weights.append(np.broadcast_to(weight, latency.shape).ravel())
    latencies.append(np.array([times.batch(1) + setup]))
    weights.append(np.array([idle]))
    return np.concatenate(latencies), np.concatenate(weights)


def _starts(times: ServiceTimes, rate: float, setup: float) -> tuple[list[float], list[float]]:
    """States when a batch starts, and their probabilities: 0, one request that found the server idle; n, n present."""
    highest = 4 * times.most + 64
    while True:
        states = _states(highest)
        chain = np.zeros((len(states), len(states)))
        for row, state in zip(chain, states.tolist(), strict=True):
            left, seconds = _step(times, state, setup)
            arrivals, chances = _arrivals(rate * seconds)
            # What falls between two states is split so that the mean stays; nobody there: the next batch starts with
            # the next arrival.
            above = np.clip(np.searchsorted(states, left + arrivals, "right"), 1, len(states) - 1)
            share = np.clip((left + arrivals - states[above - 1]) / (states[above] - states[above - 1]), 0, 1)
            np.add.at(row, above - 1, chances * (1 - share))
            np.add.at(row, above, chances * share)
        system = chain.T - np.eye(len(states))
        system[-1] = 1
        goal = np.zeros(len(states))
        goal[-1] = 1
        found = np.clip(np.linalg.solve(system, goal), 0, None)
        if found[states > states[-1] - times.most].sum() < 1e-6 or len(states) > _MOST_STATES:
            return states.tolist(), (found / found.sum()).tolist()
        highest *= 2


def _states(highest: int) -> Floats:
    """The numbers of requests that are told apart, from 0: all of them at first, and of many some.

    They lie an eighth of a Poisson deviation apart, or half a percent where that is more.
    """
    found = [0]
    while found[-1] < highest:
        found.append(found[-1] + max(1, math.isqrt(found[-1]) // 8, found[-1] // 200))
    return np.array(found, np.float64)


def _step(times: ServiceTimes, state: float, setup: float) -> tuple[float, float]:
    """What a batch does in a state: requests that it leaves behind, and seconds."""
    present = max(state, 1)
    taken = min(present, times.most)
    return present - taken, times.batch(taken) + (0.0 if state else setup)


def _arrivals(mean: float) -> tuple[Floats, Floats]:
    """How many may come where `mean` do on average (Poisson), and how probable each number is; of many, some."""
    deviation = math.sqrt(mean)
    reach = 9 * deviation + 12
    numbers = np.arange(max(int(mean - reach), 0), int(mean + reach) + 1, max(int(deviation / 8), 1), dtype=np.float64)
    logs = numbers * math.log(mean) - np.array([math.lgamma(number + 1) for number in numbers.tolist()])
    chances = np.exp(logs - logs.max())
    return numbers, chances / chances.sum()
