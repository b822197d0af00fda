"""Our Keras layers do what Keras' own do."""

from __future__ import annotations

import numpy as np
import pytest

from convtrain import backend, layers

pytestmark = pytest.mark.training

MAPS = np.random.default_rng(0).normal(3, 2, (16, 7, 5, 4)).astype(np.float32)


@pytest.mark.parametrize("values", [MAPS, MAPS[:, 0, 0]], ids=["maps", "vectors"])
def test_fast_batch_normalisation_is_batch_normalisation(values: np.ndarray) -> None:
    """In training and out of it, statistics included; 560 values hardly show that variance is without bias."""
    keras = backend.keras()
    ours, theirs = layers.fast_batch_normalization()(momentum=0.7), keras.layers.BatchNormalization(momentum=0.7)
    for layer in (ours, theirs):
        layer.build(values.shape)
        layer.gamma.assign([1.0, 2.0, 3.0, 4.0])
        layer.beta.assign([0.0, 1.0, 0.0, -1.0])
    np.testing.assert_allclose(ours(values, training=True), theirs(values, training=True), atol=1e-4)
    for one, other in zip(ours.weights, theirs.weights, strict=True):
        np.testing.assert_allclose(np.asarray(one), np.asarray(other), rtol=3e-3)
        other.assign(one)
    np.testing.assert_array_equal(ours(values, training=False), theirs(values, training=False))


def test_fast_batch_normalisation_keeps_bfloat16() -> None:
    """Maps stay small, statistics are float32."""
    tf = backend.tensorflow()
    layer = layers.fast_batch_normalization()(dtype="mixed_bfloat16")
    result = layer(tf.cast(MAPS, tf.bfloat16), training=True)
    assert result.dtype == tf.bfloat16
    assert {weight.dtype for weight in layer.weights} == {"float32"}
    np.testing.assert_allclose(np.asarray(tf.cast(result, tf.float32)).std(axis=(0, 1, 2)), 1, atol=0.02)


@pytest.mark.parametrize("filters", [2, 4, 9])
def test_a_convolution_starts_as_the_identity(filters: int) -> None:
    """Its first filters pass the channels on; those that are left are random and different."""
    convolution = backend.keras().layers.Conv2D(
        filters, 3, padding="same", kernel_initializer=layers.partial_identity()()
    )
    passed = np.asarray(convolution(MAPS))
    np.testing.assert_allclose(passed[..., :4], MAPS[..., :filters], rtol=1e-5)
    rest = np.asarray(convolution.kernel)[..., 4:]
    assert np.abs(rest).max(initial=0) <= (3 * 3 * 4) ** -0.5
    assert len(np.unique(rest)) == rest.size
