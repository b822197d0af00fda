"""Whitening: what comes out of the fixed filters is uncorrelated and of variance 1."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from convserve.manifest import InputSpec
from convtrain import network, whitening
from convtrain.architectures import Architecture, GlobalPool, Normalization, Whiten
from convtrain.datasets import Dataset

NORMALIZATION = Normalization(mean=(125.0, 123.0, 114.0), std=(63.0, 62.0, 67.0))
ARCHITECTURE = Architecture(layers=(Whiten(), GlobalPool()), normalization=NORMALIZATION)
SPEC = InputSpec(height=32, width=32, channels=3)


def test_responses_are_uncorrelated_and_of_one_variance(
    cifar10_sample: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over patches of real photographs; the second half of the filters is the first one's negative."""
    monkeypatch.setattr(whitening, "SMALLEST_VARIANCE", 0.0)
    images = cifar10_sample.train.images
    kernel = whitening.filters(images, 2, NORMALIZATION)
    assert kernel.shape == (2, 2, 3, 24)
    np.testing.assert_array_equal(kernel[..., 12:], -kernel[..., :12])
    normal = (images - np.array(NORMALIZATION.mean)) / np.array(NORMALIZATION.std)
    responses = sum(
        normal[:, down : down + 31, right : right + 31] @ kernel[down, right, :, :12]
        for down in range(2)
        for right in range(2)
    ).reshape(-1, 12)
    np.testing.assert_allclose(responses.T @ responses / len(responses), np.eye(12), atol=0.01)


def test_filters_are_of_images_of_all_labels(cifar10_sample: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of a folder lie in the order of their labels: the first few thousand would be of the first label."""
    split = cifar10_sample.train
    images = split.images[np.argsort(split.labels, kind="stable")]
    monkeypatch.setattr(whitening, "MAX_PIXELS", 100 * 32 * 32)
    kernels: list[Any] = []
    layer = SimpleNamespace(kernel=SimpleNamespace(assign=kernels.append))
    whitening.initialize(SimpleNamespace(get_layer=lambda name: layer), ARCHITECTURE, images)
    np.testing.assert_array_equal(kernels[0], whitening.filters(images[::4], 2, NORMALIZATION))


@pytest.mark.training
def test_the_filters_are_the_models_and_stay_as_they_are(cifar10_sample: Dataset) -> None:
    """They are given to the layer that leads the network; only its bias is trained."""
    model = network.build(ARCHITECTURE, SPEC, 10)
    whitening.initialize(model, ARCHITECTURE, cifar10_sample.train.images)
    layer = model.get_layer(network.WHITEN_NAME)
    np.testing.assert_array_equal(
        np.asarray(layer.kernel), whitening.filters(cifar10_sample.train.images, 2, NORMALIZATION)
    )
    assert [weight.path for weight in layer.trainable_weights] == [layer.bias.path]


@pytest.mark.training
def test_a_network_without_the_layer_is_left_alone(cifar10_sample: Dataset) -> None:
    """Nothing to do, no error."""
    architecture = Architecture(layers=(GlobalPool(),))
    model = network.build(architecture, SPEC, 10)
    before = [weight.numpy() for weight in model.weights]
    whitening.initialize(model, architecture, cifar10_sample.train.images)
    for weight, value in zip(model.weights, before, strict=True):
        np.testing.assert_array_equal(np.asarray(weight), value)
