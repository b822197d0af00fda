"""Muon: kernels turn in all directions at once and keep their size; everything else is Adam's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from convtrain import backend, optimizers
from convtrain.config import Adam, Muon, Sgd

pytestmark = pytest.mark.training

RNG = np.random.default_rng(0)


def variable(*shape: int) -> Any:
    """A Keras variable with random values."""
    return backend.keras().Variable(RNG.normal(size=shape).astype(np.float32))


def gradient(*shape: int) -> Any:
    """A random gradient."""
    return backend.tensorflow().constant(RNG.normal(size=shape), "float32")


@pytest.mark.parametrize("shape", [(40, 12), (12, 40), (16, 16)])
def test_orthogonalized_keeps_directions_and_evens_out_their_lengths(shape: tuple[int, int]) -> None:
    """Singular vectors stay, singular values go near 1, also from matrices with very small ones."""
    u, values, vt = np.linalg.svd(RNG.normal(size=shape), full_matrices=False)
    matrix = (u * np.geomspace(1, 0.02, len(values))) @ vt
    found = np.asarray(optimizers.orthogonalized(backend.tensorflow().constant(matrix, "float32")))
    inner = u.T @ found @ vt.T
    assert 0.6 < np.diag(inner).min() < np.diag(inner).max() < 1.3
    np.testing.assert_allclose(inner - np.diag(np.diag(inner)), 0, atol=1e-4)


def test_a_kernels_step_does_not_depend_on_the_size_of_its_gradient() -> None:
    """A thousand times the loss makes the same step; the kernel is brought to a norm of sqrt(filters)."""
    start = RNG.normal(size=(3, 3, 4, 6)).astype(np.float32)
    slope = gradient(3, 3, 4, 6)
    found = []
    for factor in (1.0, 1000.0):
        kernel = backend.keras().Variable(start)
        optimizer = optimizers.make(Muon(learning_rate=0.1))
        optimizer.build([kernel])
        optimizer.apply([slope * factor])
        found.append(np.asarray(kernel))
    np.testing.assert_allclose(found[0], found[1], atol=1e-5)
    step = start * 6**0.5 / np.linalg.norm(start) - found[0]
    values = np.linalg.svd(step.reshape(-1, 6), compute_uv=False)
    assert 0.06 < values.min() < values.max() < 0.13
    assert np.sum(step * np.asarray(slope)) > 0  # downhill


def test_all_but_kernels_go_as_adam_goes() -> None:
    """Biases, dense layers and depthwise kernels, at Adam's own rate, step for step like Keras' Adam."""
    shapes = [(5,), (4, 3), (3, 3, 4, 1)]
    ours = [variable(*shape) for shape in shapes]
    theirs = [backend.keras().Variable(np.asarray(one)) for one in ours]
    muon = optimizers.make(Muon(learning_rate=0.1, adam_learning_rate=0.02))
    adam = backend.keras().optimizers.Adam(0.02, beta_1=0.9, beta_2=0.99, epsilon=1e-8)
    muon.build(ours)
    adam.build(theirs)
    for _ in range(5):
        slopes = [gradient(*shape) for shape in shapes]
        muon.apply(slopes)
        adam.apply(slopes)
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(np.asarray(one), np.asarray(other), atol=1e-4)


def test_both_follow_the_schedule() -> None:
    """At a rate of 0 nothing moves but the kernel's norm."""
    kernel, bias = variable(3, 3, 4, 6), variable(6)
    optimizer = optimizers.make(Muon())
    optimizer.build([kernel, bias])
    before = np.asarray(kernel), np.asarray(bias)
    optimizer.learning_rate.assign(0.0)
    optimizer.apply([gradient(3, 3, 4, 6), gradient(6)])
    np.testing.assert_allclose(np.asarray(kernel), before[0] * 6**0.5 / np.linalg.norm(before[0]), rtol=1e-5)
    np.testing.assert_array_equal(np.asarray(bias), before[1])


@pytest.mark.parametrize(("config", "name"), [(Adam(), "Adam"), (Sgd(momentum=0.5), "SGD")])
def test_others_are_keras_own(config: Adam | Sgd, name: str) -> None:
    """With the rate that was asked for."""
    optimizer = optimizers.make(config)
    assert type(optimizer).__name__ == name
    assert float(optimizer.learning_rate) == pytest.approx(config.learning_rate)
