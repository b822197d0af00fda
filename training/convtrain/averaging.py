"""The network that a training is for: an average of the weights, or simply the last ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from convtrain import backend


class Average:
    """Exponential moving average of weights, batch normalisation's statistics included.

    In step t it keeps min(decay, (1 + t) / (10 + t)) of itself, so that the first weights are soon forgotten.
    """

    def __init__(self, source: Sequence[Any], target: Sequence[Any], decay: float) -> None:
        """`source` are the weights in training, `target` those that hold the average; a decay of 0 copies."""
        self._source, self._target, self._decay = source, target, decay
        tf = backend.tensorflow()

        @tf.function(jit_compile=False)  # type: ignore[untyped-decorator, unused-ignore]
        def move(keep: Any) -> None:
            for weight, average in zip(source, target, strict=True):
                average.assign(weight + keep * (average - weight))

        self._move = move

    def start(self) -> None:
        """Take the first weights."""
        for weight, average in zip(self._source, self._target, strict=True):
            average.assign(weight)

    def update(self, step: int) -> None:
        """Take in the weights after `step`, counted from 0."""
        if self._decay:
            tf = backend.tensorflow()
            self._move(tf.constant(min(self._decay, (1 + step) / (10 + step)), tf.float32))

    def finish_epoch(self) -> None:
        """Take the last weights as they are, where there is no average."""
        if not self._decay:
            self.start()
