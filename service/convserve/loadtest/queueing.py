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
    starts = _starts(times, rate, setup)
    most = times.most
    latencies: list[Floats] = []
    weights: list[Floats] = []
    idle = 0.0
    for state, probability in enumerate(starts.tolist()):
        if probability < 1e-12:
            continue
        left, seconds = _step(times, state, setup)
        arrivals = _poisson(rate * seconds)
        if left == 0:
            idle += probability * float(arrivals[0])
        others = np.arange(len(arrivals))[:, None]  # besides the request that is followed
        moment = (np.arange(_MOMENTS)[None, :] + 0.5) / _MOMENTS
        place = left + 1 + others * moment  # those that came before it, on average
        rounds = np.ceil(place / most) - 1  # full batches that go first
        behind = rate * rounds * times.batch(most)  # who comes while they run, on average
        size = np.clip(left + 1 + others + behind - rounds * most, 1, most)
        own = np.clip(place - rounds * most, 1, size)  # its place in its batch: replies leave one after the other
        answer = times.fixed + times.each * size + times.handling * (size + own) / 2
        latency = seconds * (1 - moment) + rounds * times.batch(most) + answer
        weight = probability * rate * seconds * arrivals[:, None] / _MOMENTS
        latencies.append(latency.ravel())
        weights.append(np.broadcast_to(weight, latency.shape).ravel())
    latencies.append(np.array([times.batch(1) + setup]))
    weights.append(np.array([idle]))
    return np.concatenate(latencies), np.concatenate(weights)


def _starts(times: ServiceTimes, rate: float, setup: float) -> Floats:
    """The probability of each state when a batch starts: 0, one request that found the server idle; n, n present."""
    most = times.most
    states = 4 * most + 64
    while True:
        chain = np.zeros((states, states))
        for state, row in enumerate(chain):
            left, seconds = _step(times, state, setup)
            arrivals = _poisson(rate * seconds)[: states - left]
            row[left : left + len(arrivals)] = arrivals  # nobody there: the next batch starts with the next arrival
            row[-1] += max(1 - row.sum(), 0)
        system = chain.T - np.eye(states)
        system[-1] = 1
        goal = np.zeros(states)
        goal[-1] = 1
        found = np.clip(np.linalg.solve(system, goal), 0, None)
        if found[-most:].sum() < 1e-6 or states > 1200:
            return np.asarray(found / found.sum(), np.float64)
        states *= 2


def _step(times: ServiceTimes, state: int, setup: float) -> tuple[int, float]:
    """What a batch does in a state: requests that it leaves behind, and seconds."""
    present = max(state, 1)
    taken = min(present, times.most)
    return present - taken, times.batch(taken) + (0.0 if state else setup)


def _poisson(mean: float) -> Floats:
    """Probabilities of 0, 1, 2, ... up to where they vanish."""
    last = int(mean + 9 * math.sqrt(mean) + 12)
    logs = np.concatenate([[0.0], np.cumsum(np.log(mean / np.arange(1, last + 1)))]) - mean
    return np.asarray(np.exp(logs), np.float64)
