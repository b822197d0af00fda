"""Keras layers and initial weights that Keras does not have."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from convtrain import backend


@functools.cache
def fast_batch_normalization() -> Any:
    """The class `keras.layers.BatchNormalization` with one fused kernel for training on maps.

    Keras writes the training step as separate operations in float32, which in TensorFlow on a CPU takes several times
    as long. The weights and what happens outside of training are Keras' own. JAX fuses what Keras writes.
    """
    keras = backend.keras()
    if backend.chosen() == "jax":
        return keras.layers.BatchNormalization
    tf = backend.tensorflow()

    class FastBatchNormalization(keras.layers.BatchNormalization):  # type: ignore[misc, name-defined, unused-ignore]
        """`keras.layers.BatchNormalization`, faster."""

        def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
            """Normalise [N, H, W, C] or [N, C], over the batch in training, else with the moving statistics."""
            if not training or len(inputs.shape) != 4:
                return super().call(inputs, training=training, mask=mask)
            y, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
                x=inputs,
                scale=tf.convert_to_tensor(self.gamma),
                offset=tf.convert_to_tensor(self.beta),
                mean=tf.zeros_like(self.moving_mean),
                variance=tf.zeros_like(self.moving_variance),
                epsilon=self.epsilon,
                is_training=True,
            )
            for moving, current in ((self.moving_mean, mean), (self.moving_variance, variance)):
                moving.assign(moving * self.momentum + current * (1 - self.momentum))
            return y

    return FastBatchNormalization


@functools.cache
def partial_identity() -> Any:
    """The class of an initializer of kernels [h, w, in, out]: the first filters pass a channel on, the rest is random.

    Random filters are uniform within 1/sqrt(fan-in). Such a network starts out passing its input through (Jordan,
    arXiv 2404.00498, section 3.2).
    """
    keras = backend.keras()

    class PartialIdentity(keras.initializers.Initializer):  # type: ignore[misc, name-defined, unused-ignore]
        """Identity in the first filters."""

        def __call__(self, shape: tuple[int, ...], dtype: Any = None) -> Any:
            height, width, channels, filters = shape
            bound = (height * width * channels) ** -0.5
            kernel = np.array(keras.random.uniform(shape, -bound, bound, dtype="float32"))
            passed = np.arange(min(channels, filters))
            kernel[..., passed] = 0
            kernel[height // 2, width // 2, passed, passed] = 1
            return keras.ops.convert_to_tensor(kernel, dtype)

    return PartialIdentity
