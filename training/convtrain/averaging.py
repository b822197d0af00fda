"""The network that a training is for: an average of the weights, or simply the last ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from convtrain import backend


class Average:
    """Exponential moving average of weights, batch normalisation's statistics included.

    In step t it keeps min(decay, (1 + t) / (10 + t)) of itself, so that the first weights are soon forgotten.
    """

    def __init__(self, source: Sequence[Any], target: Sequence[Any], decay: float) -> None:
        """`source` are the weights in training, `target` those that hold the average; a decay of 0 copies."""
        self._source, self._target, self._decay = source, target, decay
        make = _in_jax if backend.chosen() == "jax" else _in_tensorflow
        self._move = make(source, target)

    def start(self) -> None:
        """Take the first weights."""
        for weight, average in zip(self._source, self._target, strict=True):
            average.assign(np.array(weight.numpy()))  # JAX would share the memory, and give it away in the next step

    def update(self, step: int) -> None:
        """Take in the weights after `step`, counted from 0."""
        if self._decay:
            self._move(min(self._decay, (1 + step) / (10 + step)))

    def finish_epoch(self) -> None:
        """Take the last weights as they are, where there is no average."""
        if not self._decay:
            self.start()


def _in_tensorflow(source: Sequence[Any], target: Sequence[Any]) -> Callable[[float], None]:
    """Make the function that moves all averages in one graph; its argument is what they keep of themselves."""
    tf = backend.tensorflow()

    @tf.function(jit_compile=False)  # type: ignore[untyped-decorator, unused-ignore]
    def move(keep: Any) -> None:
        for weight, average in zip(source, target, strict=True):
            average.assign(weight + keep * (average - weight))

    return lambda keep: move(tf.constant(keep, tf.float32))


def _in_jax(source: Sequence[Any], target: Sequence[Any]) -> Callable[[float], None]:
    """Make the function that moves all averages in one program; its argument is what they keep of themselves."""

    @backend.jax().jit  # type: ignore[untyped-decorator, unused-ignore]
    def moved(weights: list[Any], averages: list[Any], keep: float) -> list[Any]:
        return [weight + keep * (average - weight) for weight, average in zip(weights, averages, strict=True)]

    def move(keep: float) -> None:
        new = moved([weight.value for weight in source], [average.value for average in target], keep)
        for average, value in zip(target, new, strict=True):
            average.assign(value)

    return move
