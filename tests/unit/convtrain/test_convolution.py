"""Shapes and values of convolutions: NumPy, Keras, the exported ONNX file and our arithmetic say the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from convserve.manifest import InputSpec
from convtrain import backend, export, network
from convtrain.architectures import Architecture, Conv, Flatten, Normalization, Padding, Pool, SeparableConv
from convtrain.errors import ArchitectureError
from convtrain.layout import lay_out, output_length
from convtrain.predictions import from_onnx
from support import reference

SIZES = st.integers(1, 24)
SMALL = st.integers(1, 4)
PADDING: st.SearchStrategy[Padding] = st.sampled_from(("valid", "same"))


@given(length=SIZES, window=SMALL, stride=SMALL, dilation=SMALL, padding=PADDING)
def test_output_length_counts_the_places_of_a_window(
    length: int, window: int, stride: int, dilation: int, padding: Padding
) -> None:
    """The formula agrees with putting the window down step by step."""
    around = reference.padding(length, window, stride, dilation, padding)
    counted = reference.positions(length, window, stride, dilation, *around)
    assert max(output_length(length, window, stride, padding, dilation), 0) == counted


def test_the_vertical_edge_of_a_4x4_image_with_padding_1() -> None:
    """A Sobel kernel on an image that is dark left and bright right, worked by hand: 4×4 in, 4×4 out."""
    image = reference.plain([[0, 0, 10, 10]] * 4)
    sobel = reference.plain_kernel([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]])
    # A row in the middle: 4 times the step of brightness on both sides of the edge; at the right rim the zeros beyond
    # are an edge the other way. Above and below, one of three rows is zeros: three quarters of it.
    expected = [[0, 30, 30, -30], [0, 40, 40, -40], [0, 40, 40, -40], [0, 30, 30, -30]]
    np.testing.assert_array_equal(reference.convolve(image, sobel, pad=1)[..., 0], expected)
    np.testing.assert_array_equal(reference.convolve(image, sobel, pad="same")[..., 0], expected)
    np.testing.assert_array_equal(reference.convolve(image, sobel)[..., 0], [[40, 40], [40, 40]])


def test_the_horizontal_edge_of_a_5x5_image() -> None:
    """Bright above, dark below, a kernel of ones over zeros over minus ones: 5×5 in, 3×3 out, the edge in two rows."""
    image = reference.plain([[10] * 5] * 2 + [[0] * 5] * 3)
    edge = reference.plain_kernel([[1, 1, 1], [0, 0, 0], [-1, -1, -1]])
    np.testing.assert_array_equal(reference.convolve(image, edge)[..., 0], [[30, 30, 30], [30, 30, 30], [0, 0, 0]])


@pytest.mark.training
@pytest.mark.parametrize(
    ("rows", "kernel", "pad"),
    [
        ([[0, 0, 10, 10]] * 4, [[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]], "same"),
        ([[10] * 5] * 2 + [[0] * 5] * 3, [[1, 1, 1], [0, 0, 0], [-1, -1, -1]], "valid"),
    ],
)
def test_keras_finds_the_same_edges(rows: list[list[float]], kernel: list[list[float]], pad: str) -> None:
    """The two examples, through the library."""
    image, weights = reference.plain(rows), reference.plain_kernel(kernel)
    found = backend.keras().ops.conv(image[None].astype(np.float32), weights.astype(np.float32), 1, pad)
    np.testing.assert_allclose(np.asarray(found)[0], reference.convolve(image, weights, pad=pad), atol=1e-5)


@st.composite
def convolutions(draw: st.DrawFn) -> dict[str, Any]:
    """Sizes of an image and a convolution that fits on it; strides and dilation exclude each other."""
    spread = draw(st.sampled_from([("strides", draw(st.integers(1, 3))), ("dilation", draw(st.integers(1, 3)))]))
    options: dict[str, Any] = {"strides": 1, "dilation": 1, spread[0]: spread[1]}
    kernel = (draw(st.integers(1, 4)), draw(st.integers(1, 4)))
    pad = draw(PADDING)
    least = [1 if pad == "same" else options["dilation"] * (size - 1) + 1 for size in kernel]
    return options | {
        "kernel": kernel,
        "pad": pad,
        "height": draw(st.integers(least[0], 11)),
        "width": draw(st.integers(least[1], 11)),
        "channels": draw(st.sampled_from([1, 3])),
        "filters": draw(st.integers(1, 4)),
        "seed": draw(st.integers(0, 2**16)),
    }


# What is slow is tracing a new graph for each example, so there are few; the rule above is checked on many.
FEW = settings(max_examples=15, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])


@pytest.mark.training
@FEW
@given(case=convolutions())
def test_keras_convolves_like_the_reference(case: dict[str, Any]) -> None:
    """Values and shapes, with strides or dilation, both kinds of padding, and our arithmetic for the shape."""
    rng = np.random.default_rng(case["seed"])
    image = rng.normal(size=(case["height"], case["width"], case["channels"]))
    kernel = rng.normal(size=(*case["kernel"], case["channels"], case["filters"]))
    expected = reference.convolve(
        image, kernel, strides=(case["strides"],) * 2, dilation=(case["dilation"],) * 2, pad=case["pad"]
    )
    found = backend.keras().ops.conv(
        image[None].astype(np.float32),
        kernel.astype(np.float32),
        strides=case["strides"],
        padding=case["pad"],
        dilation_rate=case["dilation"],
    )
    np.testing.assert_allclose(np.asarray(found)[0], expected, atol=1e-4)
    spec = InputSpec(height=case["height"], width=case["width"], channels=case["channels"])
    layer = Conv(
        filters=case["filters"],
        kernel_size=case["kernel"],
        strides=case["strides"],
        dilation_rate=case["dilation"],
        padding=case["pad"],
    )
    assert lay_out(Architecture(layers=(layer, Flatten())), spec, 2)[0].shape == expected.shape


@pytest.mark.training
@settings(FEW, max_examples=6)
@given(case=convolutions(), separable=st.booleans(), pooled=st.booleans())
def test_the_exported_file_convolves_like_the_reference(
    case: dict[str, Any], separable: bool, pooled: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """From uint8 pixels to logits through onnxruntime: normalisation, convolution, ReLU, pooling, dense layer."""
    spec = InputSpec(height=case["height"], width=case["width"], channels=case["channels"])
    kind = SeparableConv if separable else Conv
    layers = (
        kind(
            filters=case["filters"],
            kernel_size=case["kernel"],
            strides=case["strides"],
            dilation_rate=case["dilation"],
            padding=case["pad"],
        ),
        *([Pool()] if pooled else []),
        Flatten(),
    )
    architecture = Architecture(layers=layers, normalization=Normalization(mean=100.0, std=50.0))
    try:
        lay_out(architecture, spec, 3)
    except ArchitectureError:  # the pool is larger than what the convolution left
        architecture = Architecture(layers=(layers[0], layers[-1]), normalization=architecture.normalization)
    model = network.build(architecture, spec, 3)
    rng = np.random.default_rng(case["seed"])
    for weight in model.weights:
        weight.assign(rng.normal(0, 0.5, weight.shape))
    path: Path = tmp_path_factory.mktemp("export") / "model.onnx"
    export.write_onnx(model, path)
    image = rng.integers(0, 256, spec.shape, dtype=np.uint8)
    *kernels, bias, dense, dense_bias = (np.asarray(weight, np.float64) for weight in model.weights)
    convolve = reference.separable if separable else reference.convolve
    values = np.maximum(
        convolve(
            (image.astype(np.float64) - 100) / 50,
            *kernels,
            strides=(case["strides"],) * 2,
            dilation=(case["dilation"],) * 2,
            pad=case["pad"],
            bias=bias,
        ),
        0,
    )
    if len(architecture.layers) == 3:
        values = reference.max_pool(values, (2, 2), (2, 2))
    expected = values.reshape(-1) @ dense + dense_bias
    np.testing.assert_allclose(from_onnx(path, image[None]).logits[0], expected, rtol=1e-3, atol=1e-3)
