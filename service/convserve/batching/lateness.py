"""How much later answers come than was predicted."""

from __future__ import annotations

_GAIN = 0.1
"""How far one answer moves what is believed."""
_DEVIATIONS = 2.0
"""How many mean deviations of safety: a prediction that holds on the average is broken by every other answer."""


class Lateness:
    """Learns from every answer, as TCP learns how long to wait for an acknowledgement (Jacobson, 1988).

    What the times of batches do not tell is in it: threads that wait for the interpreter, requests that are read and
    refused between two batches, other models' turns. Written and read by several threads; a float read a moment early
    does no harm, so there is no lock.
    """

    def __init__(self) -> None:
        """Believe predictions."""
        self._mean = 0.0
        self._deviation = 0.0

    def note(self, predicted: float, actual: float) -> None:
        """Take in how many seconds an answer was predicted to take, and how many it took."""
        error = actual - predicted
        self._deviation += _GAIN * (abs(error - self._mean) - self._deviation)
        self._mean += _GAIN * (error - self._mean)

    @property
    def allowance(self) -> float:
        """Seconds to add to a prediction, so that most answers come no later."""
        return max(self._mean + _DEVIATIONS * self._deviation, 0.0)
