"""Networks are what their description says, layer by layer."""

from __future__ import annotations

import numpy as np
import pytest

from convserve.manifest import InputSpec
from convtrain import backend, network
from convtrain.architectures import (
    Activate,
    Architecture,
    BatchNorm,
    Conv,
    Dense,
    Dropout,
    Flatten,
    GlobalPool,
    Layer,
    Normalization,
    Pool,
    Residual,
    SeparableConv,
    Whiten,
)
from convtrain.errors import ArchitectureError
from convtrain.layout import lay_out
from convtrain.predictions import from_keras
from convtrain.presets import PRESETS

pytestmark = pytest.mark.training

SPEC = InputSpec(height=17, width=14, channels=3)

NETWORKS: dict[str, tuple[Layer, ...]] = {
    "valid": (Conv(filters=4, padding="valid", kernel_size=(5, 2)), Pool(size=3, strides=2), Flatten()),
    "same": (Conv(filters=4, strides=(2, 1)), Pool(kind="average", padding="same"), Flatten(), Dense(units=7)),
    "dilated": (Conv(filters=4, dilation_rate=3, padding="valid", batch_norm=True), GlobalPool()),
    "separable": (
        SeparableConv(filters=6, strides=2, batch_norm=True),
        SeparableConv(filters=5),
        GlobalPool(kind="max"),
    ),
    "regularized": (Conv(filters=4, l2=0.1), Dropout(rate=0.5), Flatten(), Dense(units=5, batch_norm=True, l2=0.1)),
    "loose": (Conv(filters=4, activation="linear"), BatchNorm(), Activate(activation="gelu"), Flatten()),
    "residual": (
        Whiten(activation="silu"),
        Conv(filters=6, pool=2, batch_norm=True),
        Residual(layers=(Conv(filters=4), Conv(filters=6, batch_norm=True, activation="linear"))),
        GlobalPool(kind="max"),
    ),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_keras_agrees_with_our_arithmetic(name: str) -> None:
    """Shapes of the maps and counts of parameters are Keras' own."""
    architecture = Architecture(layers=NETWORKS[name])
    model = network.build(architecture, SPEC, 4)
    rows = lay_out(architecture, SPEC, 4)
    assert model.count_params() == sum(row.parameters for row in rows)
    built = {tuple(operation.output.shape[1:]) for operation in model.operations}
    assert {row.shape for row in rows} <= built


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_built_with_as_many_parameters_as_described(name: str) -> None:
    """The table of presets tells the truth."""
    preset = PRESETS[name]
    model = network.build(preset.architecture, preset.input, 10)
    rows = lay_out(preset.architecture, preset.input, 10)
    assert model.count_params() == sum(row.parameters for row in rows)


def test_pixels_are_normalised_in_the_graph() -> None:
    """(sample - mean) / std for each channel, then what the layers say; probabilities are softmax with temperature."""
    normalization = Normalization(mean=(10.0, 20.0, 30.0), std=(2.0, 4.0, 5.0))
    model = network.build(Architecture(layers=(GlobalPool(),), normalization=normalization), SPEC, 4, temperature=2.0)
    kernel, bias = (np.asarray(weight, np.float64) for weight in model.weights)
    images = np.random.default_rng(0).integers(0, 256, (3, *SPEC.shape), dtype=np.uint8)
    means = ((images - np.array([10.0, 20.0, 30.0])) / np.array([2.0, 4.0, 5.0])).mean(axis=(1, 2))
    logits = means @ kernel + bias
    expected = np.exp(logits / 2) / np.exp(logits / 2).sum(axis=1, keepdims=True)
    found = from_keras(model, images)
    np.testing.assert_allclose(found.logits, logits, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(found.probabilities, expected, atol=1e-5)


def test_what_does_not_fit_never_reaches_keras() -> None:
    """The refusal is ours, with a way out."""
    with pytest.raises(ArchitectureError, match="it needs a flat vector"):
        network.build(Architecture(layers=(Conv(filters=4),)), SPEC, 4)


@pytest.mark.parametrize("name", NETWORKS)
def test_what_is_trained_has_the_weights_of_what_is_exported(name: str) -> None:
    """One for one, whatever it computes in: they are copied by position."""
    architecture = Architecture(layers=NETWORKS[name])
    trained = network.build_for_training(architecture, SPEC, 4, precision="mixed_bfloat16", any_size=False)
    exported = network.build(architecture, SPEC, 4)
    names = [[weight.path.rpartition("/")[2] for weight in model.weights] for model in (trained, exported)]
    assert names[0] == names[1]
    assert [weight.shape for weight in trained.weights] == [weight.shape for weight in exported.weights]
    assert {weight.dtype for weight in (*trained.weights, *exported.weights)} == {"float32"}
    assert {trained.output[key].dtype for key in trained.output} == {"float32"}
    for weight, value in zip(exported.weights, trained.weights, strict=True):
        weight.assign(value)
    images = np.random.default_rng(0).integers(0, 256, (3, *SPEC.shape), dtype=np.uint8)
    found, expected = (from_keras(model, images).probabilities for model in (trained, exported))
    np.testing.assert_allclose(found, expected, atol=0.1)
    assert not np.array_equal(found, expected)  # bfloat16 it was


def test_with_a_global_pool_images_may_have_any_size() -> None:
    """Progressive resizing trains one network on several."""
    pooled = Architecture(layers=(Conv(filters=4), GlobalPool()))
    model = network.build_for_training(pooled, SPEC, 4, precision="float32", any_size=True)
    assert model(np.zeros((2, 9, 11, 3), np.uint8))["logits"].shape == (2, 4)


def test_precision_is_nobody_elses() -> None:
    """Building for training leaves Keras as it was."""
    network.build_for_training(Architecture(layers=(Flatten(),)), SPEC, 4, precision="mixed_bfloat16", any_size=False)
    assert network.build(Architecture(layers=(Flatten(),)), SPEC, 4).dtype_policy.name == "float32"


def test_a_network_of_identities_starts_near_indifference() -> None:
    """Before training every class is about as probable as another; mostly, since last weights are chance."""
    layers = (Conv(filters=8), Conv(filters=8), GlobalPool(kind="max"))
    normalization = Normalization(mean=127.0, std=64.0)
    architecture = Architecture(layers=layers, normalization=normalization, initialization="identity")
    images = np.random.default_rng(0).integers(0, 256, (3, *SPEC.shape), dtype=np.uint8)
    furthest = []
    for seed in range(5):
        backend.keras().utils.set_random_seed(seed)
        probabilities = from_keras(network.build(architecture, SPEC, 4), images).probabilities
        furthest.append(np.abs(probabilities - 0.25).max())
    assert np.median(furthest) < 0.25
