"""How much later answers come than was predicted."""

from __future__ import annotations

import math

_GAIN = 0.1
"""How far one answer moves what is believed."""
_GAIN_AFTER_SILENCE = 0.5
"""The same for a request that was let in after a while without answers, when what is believed is old."""
_DEVIATIONS = 2.0
"""How many mean deviations of safety: a prediction that holds on the average is broken by every other answer."""
_TRY_AGAIN_SECONDS = 0.1
"""While every request with a deadline is refused, one is let in so often, or nothing would ever be learned again."""
_TRY_TIMES = 10.0
"""Large ones less often: after so many times what one is predicted to run, so that a tenth of the time goes there."""

_FADES_SECONDS = 1.0
"""What is believed halves in so much time in which nothing waited, ran or was answered."""


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
        self._refusing_since = math.inf
        self._gain = _GAIN
        self._heard = 0.0

    def note(self, predicted: float, actual: float, now: float) -> None:
        """Take in how many seconds an answer was predicted to take, and how many it took."""
        self._heard = now
        self._refusing_since = math.inf
        error = actual - predicted
        gain, self._gain = self._gain, _GAIN
        self._deviation += gain * (abs(error - self._mean) - self._deviation)
        self._mean += gain * (error - self._mean)

    def fade(self, now: float) -> None:
        """Nothing waits or runs: believe the less of what was, the longer ago it is.

        Or whoever calls after a pause would be refused for an overload that is long over.
        """
        silence = now - self._heard
        if silence > _FADES_SECONDS:
            left = 0.5 ** (silence / _FADES_SECONDS)
            self._mean *= left
            self._deviation *= left
            self._heard = now

    @property
    def allowance(self) -> float:
        """Seconds to add to a prediction, so that most answers come no later."""
        return max(self._mean + _DEVIATIONS * self._deviation, 0.0)

    def lets_in(self, now: float, run_seconds: float) -> bool:
        """Whether a request that seems to be too late runs all the same, since no answer has told for a while.

        It is predicted to run for `run_seconds`.

        After an overload the predictions are those of the overload. If nobody leaves more time than they ask for, every
        request is refused, and what is predicted stays as it is however quiet it has become.
        """
        if self._refusing_since == math.inf:
            self._refusing_since = now
        if now - self._refusing_since < max(_TRY_AGAIN_SECONDS, _TRY_TIMES * run_seconds):
            return False
        self._refusing_since = now
        self._gain = _GAIN_AFTER_SILENCE
        return True
