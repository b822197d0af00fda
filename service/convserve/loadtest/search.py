"""The highest rate that keeps a promise: bisection, and confirmation by repetition."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

CONFIRMATIONS = 3
"""How often in a row the rate found must pass."""
PRECISION = 0.03
"""The search ends when the rate that passes and the one that fails are this close, as a share."""
_STEP_BACK = 0.97
_MOST_STEPS_BACK = 10


@dataclass
class Found:
    """Where a search ended."""

    rate: float
    """The highest rate that passed as often as asked for; 0: none did."""
    tries: list[tuple[float, bool]] = field(default_factory=list)
    """Every rate that was tried, in order, and whether it passed."""
    in_doubt: bool = False
    """Whether a rate failed only in runs that were invalid: the server may be able to do more."""


def search(passes: Callable[[float], bool], start: float, *, lowest: float = 1.0) -> Found:
    """Find the highest rate that passes.

    Doubles or halves from `start` until one rate passes and one fails, bisects between them (by the geometric mean, as
    rates are compared by ratio), and then repeats the rate found. One that fails a repetition was lucky before: the
    search goes on a step lower.

    Args:
        passes: makes a run at a rate, in requests per second, and judges it.
        start: where to begin.
        lowest: below this, nothing is tried.
    """
    found = Found(0.0)

    def attempt(rate: float) -> bool:
        good = passes(rate)
        found.tries.append((rate, good))
        return good

    low, high = 0.0, 0.0
    rate = start
    while not (low and high):
        if attempt(rate):
            low = rate
            rate = low * 2
        else:
            high = rate
            rate = high / 2
            if rate < lowest:
                return found
    while high / low > 1 + PRECISION:
        middle = (low * high) ** 0.5
        if attempt(middle):
            low = middle
        else:
            high = middle
    rate = low
    for _ in range(_MOST_STEPS_BACK):
        if all(attempt(rate) for _ in range(CONFIRMATIONS)):
            found.rate = rate
            return found
        rate *= _STEP_BACK
    return found
