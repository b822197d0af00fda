"""Keras optimizers from their description; Muon, which is ours."""

from __future__ import annotations

import functools
from typing import Any

from convtrain import backend
from convtrain.config import Adam, Muon, Optimizer, Sgd

ADAM_MOMENTS = (0.9, 0.99)
ADAM_EPSILON = 1e-8
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
"""Coefficients of the iteration x -> a·x + b·x³ + c·x⁵ from https://kellerjordan.github.io/posts/muon/: small singular
values grow fastest, and all end near 1, between 0.7 and 1.2."""
NEWTON_SCHULZ_STEPS = 4
"""Enough for singular values from 0.005 of the matrix's norm on."""


def make(config: Optimizer) -> Any:
    """Make the Keras optimizer that `config` describes."""
    optimizers = backend.keras().optimizers
    match config:
        case Adam():
            return optimizers.Adam(config.learning_rate)
        case Sgd():
            return optimizers.SGD(config.learning_rate, momentum=config.momentum, nesterov=True)
        case Muon():
            return _muon()(config)


def orthogonalized(matrix: Any) -> Any:
    """The matrix with its singular vectors kept and its singular values near 1, by Newton-Schulz; [rows, columns]."""
    ops = backend.keras().ops
    a, b, c = NEWTON_SCHULZ
    tall = matrix.shape[0] > matrix.shape[1]
    x = ops.transpose(matrix) if tall else matrix
    x = x / (ops.norm(x) + 1e-12)
    for _ in range(NEWTON_SCHULZ_STEPS):
        square = ops.matmul(x, ops.transpose(x))  # the smaller of the two products
        x = a * x + ops.matmul(b * square + c * ops.matmul(square, square), x)
    return ops.transpose(x) if tall else x


@functools.cache
def _muon() -> Any:
    keras = backend.keras()
    ops = keras.ops

    class MuonOptimizer(keras.optimizers.Optimizer):  # type: ignore[misc, name-defined, unused-ignore]
        """Muon with Nesterov momentum for kernels of convolutions, Adam for all other weights.

        A kernel [h, w, in, out] counts as a matrix [h·w·in, out]; depthwise kernels, whose filters see one channel
        each, are Adam's.
        """

        def __init__(self, config: Muon) -> None:
            super().__init__(config.learning_rate, name="muon")
            self._momentum = config.momentum
            self._adam_share = config.adam_learning_rate / config.learning_rate

        def build(self, variables: Any) -> None:
            """Make the moments."""
            if self.built:
                return
            super().build(variables)
            self._first = self.add_optimizer_variables(variables, "first")
            self._second = {
                index: self.add_variable_from_reference(variable, "second")
                for index, variable in enumerate(variables)
                if not _is_kernel(variable)
            }

        def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
            """Change one variable."""
            index = self._get_variable_index(variable)
            if _is_kernel(variable):
                self._turn(gradient, variable, self._first[index], learning_rate)
            else:
                self._adam(gradient, variable, self._first[index], self._second[index], learning_rate)

        def _turn(self, gradient: Any, kernel: Any, moment: Any, learning_rate: Any) -> None:
            filters = kernel.shape[-1]
            self.assign(moment, self._momentum * moment + gradient)
            ahead = ops.reshape(gradient + self._momentum * moment, (-1, filters))
            step = ops.reshape(orthogonalized(ahead), kernel.shape)
            moved = kernel * (filters**0.5 / _norm(kernel)) - learning_rate * step
            self.assign(kernel, moved)

        def _adam(self, gradient: Any, variable: Any, first: Any, second: Any, learning_rate: Any) -> None:
            count = ops.cast(self.iterations + 1, "float32")
            keep, keep_squares = ADAM_MOMENTS
            self.assign(first, keep * first + (1 - keep) * gradient)
            self.assign(second, keep_squares * second + (1 - keep_squares) * ops.square(gradient))
            mean = first / (1 - ops.power(keep, count))
            deviation = ops.sqrt(second / (1 - ops.power(keep_squares, count)))
            self.assign_sub(variable, learning_rate * self._adam_share * mean / (deviation + ADAM_EPSILON))

    def _is_kernel(variable: Any) -> bool:
        return len(variable.shape) == 4 and variable.shape[-1] > 1

    def _norm(kernel: Any) -> Any:
        return ops.sqrt(ops.sum(ops.square(kernel)) + 1e-12)

    return MuonOptimizer
