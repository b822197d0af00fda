"""What a percentile of so many requests is worth: early stopping as MLPerf's LoadGen does it.

A run has shown that the p-th percentile is at most some latency when, if it were not, so few slow requests as were seen
would be improbable: with `n` requests of which `t` were slower, P(Binomial(n, 1 - p) <= t) must be at most 1 - c, with
c = 0.99. This is LoadGen's rule with its tolerance of 0 (appendix "early stopping" of the MLPerf Inference Rules): it
needs 459 requests without a slow one for p99, and estimates p90 from 64 requests on and p99 from 662 on.
"""

from __future__ import annotations

import math

import numpy as np

CONFIDENCE = 0.99
"""LoadGen's."""


def most_slow(requests: int, percentile: float, confidence: float = CONFIDENCE) -> int | None:
    """Most requests that may be slower than a bound for it to be shown; None: not even none would show it.

    Args:
        requests: how many there were.
        percentile: between 0 and 1, such as 0.99.
        confidence: between 0 and 1.
    """
    slow = 1 - percentile
    log_pass = requests * math.log1p(-slow)
    if log_pass > math.log(1 - confidence):
        return None
    largest = int(requests * slow) + 1  # the mean; the lower tail ends before it
    k = np.arange(1, min(largest, requests) + 1)
    steps = np.log((requests - k + 1) / k) + math.log(slow / percentile)
    log_terms = np.concatenate([[log_pass], log_pass + np.cumsum(steps)])
    tail = np.cumsum(np.exp(log_terms))
    return int(np.searchsorted(tail, 1 - confidence, side="right")) - 1


def needed_requests(slow_requests: int, percentile: float, confidence: float = CONFIDENCE) -> int:
    """Fewest requests that show a bound for a percentile when `slow_requests` of them are slower than it."""

    def shows(requests: int) -> bool:
        most = most_slow(requests, percentile, confidence)
        return most is not None and most >= slow_requests

    high = 1
    while not shows(high):
        high *= 2
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        if shows(middle):
            high = middle
        else:
            low = middle
    return high


def estimate_rank(requests: int, percentile: float, confidence: float = CONFIDENCE) -> int | None:
    """Which of the latencies in ascending order, from 1, is LoadGen's estimate of a percentile; None: too few requests.

    The estimate is the latency that a bound could have been set to and still be shown: an upper limit, not the middle.
    """
    most = most_slow(requests, percentile, confidence)
    return None if most is None or most < 1 else requests - most + 1
