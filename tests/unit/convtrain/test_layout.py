"""Shapes, counts and refusals, computed without TensorFlow."""

from __future__ import annotations

import msgspec
import pytest

from convserve.manifest import InputSpec
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
    Padding,
    Pool,
    Residual,
    SeparableConv,
    Whiten,
)
from convtrain.errors import ArchitectureError
from convtrain.layout import Row, lay_out, output_length

COLOUR = InputSpec(height=32, width=32, channels=3)


def rows(*layers: Layer, spec: InputSpec = COLOUR) -> list[Row]:
    return lay_out(Architecture(layers=layers), spec, 10)


def test_a_separable_convolution_is_small() -> None:
    """The published comparison, 3×3 from 16 to 32 channels: 4,640 parameters against 688."""
    narrow = Conv(filters=16)
    assert rows(narrow, Conv(filters=32), Flatten())[1].parameters == 4_640
    assert rows(narrow, SeparableConv(filters=32), Flatten())[1].parameters == 688


def test_what_one_value_sees_grows_with_windows_strides_and_dilation() -> None:
    """Receptive field: each window adds its reach times the steps so far."""
    found = rows(Conv(filters=4), Pool(), Conv(filters=4), Conv(filters=4, dilation_rate=2), GlobalPool())
    assert [row.receptive_field for row in found[:4]] == [(3, 3), (4, 4), (8, 8), (16, 16)]
    assert found[4].receptive_field is None


def test_multiply_adds_are_weights_times_places() -> None:
    """A 3×3 convolution from 3 to 8 channels on 16×16 places."""
    (conv, _, logits) = rows(Conv(filters=8, strides=2), GlobalPool())
    assert (conv.shape, conv.multiply_adds) == ((16, 16, 8), 3 * 3 * 3 * 8 * 16 * 16)
    assert (logits.shape, logits.parameters, logits.multiply_adds) == ((10,), 90, 80)


@pytest.mark.parametrize(
    ("length", "window", "stride", "padding", "dilation", "expected"),
    [
        (28, 3, 1, "valid", 1, 26),
        (28, 3, 1, "same", 1, 28),
        (7, 2, 2, "valid", 1, 3),
        (7, 2, 2, "same", 1, 4),
        (7, 3, 1, "valid", 3, 1),
        (2, 3, 1, "valid", 1, 0),
    ],
)
def test_output_length(length: int, window: int, stride: int, padding: Padding, dilation: int, expected: int) -> None:
    """valid: whole windows only; same: the length over the stride, rounded up."""
    assert output_length(length, window, stride, padding, dilation) == expected


@pytest.mark.parametrize(
    ("layers", "why"),
    [
        (
            (Conv(filters=4), Dense(units=3)),
            r"layer 2 \(dense\): its input is 32×32×4; it needs a flat vector.*flatten",
        ),
        ((Conv(filters=4),), r"the last dense layer \(logits\): its input is 32×32×4; it needs a flat vector"),
        ((Flatten(), Conv(filters=4)), r"layer 2 \(conv 3×3\): its input is 3072; it needs a map"),
        ((Flatten(), Pool()), r"layer 2 \(max pool 2×2\): its input is 3072; it needs a map"),
        ((GlobalPool(), Flatten()), r"layer 2 \(flatten\): its input is 3; it needs a map"),
        ((Flatten(), GlobalPool()), r"layer 2 \(global average pool\): its input is 3072; it needs a map"),
        ((Conv(filters=4, strides=2, dilation_rate=2),), r"strides \(2, 2\) and dilation_rate \(2, 2\) exclude"),
        ((SeparableConv(filters=4, strides=(1, 2)),), "takes the same in both directions"),
        ((Pool(size=16), Conv(filters=4, padding="valid")), r"layer 2 .* input is 2×2×3; the window is larger"),
        ((Conv(filters=4, kernel_size=0),), "sizes are from 1 to 2147483647; here the window is 0×0"),
        ((Pool(strides=0),), "its step 0×0"),
        (
            (Pool(size=8), Conv(filters=4, dilation_rate=2, padding="valid")),
            r"layer 2 \(conv 3×3\): its input is 4×4×3; the window is larger than the map, it covers 5×5; use padding",
        ),
        (
            (Conv(filters=4, pool=64), Flatten()),
            r"layer 1 \(conv 3×3\), its pool: its input is 32×32×4; .* covers 64×64",
        ),
        (
            (Pool(), Whiten()),
            r"layer 2 \(whiten 2×2\): its input is 16×16×3; its filters are computed from pixels; put",
        ),
        ((Residual(layers=(Whiten(),)),), r"layer 1, its 1 \(whiten 2×2\): .* put it first"),
        (
            (Conv(filters=4), Residual(layers=(Conv(filters=8), Conv(filters=8)))),
            r"layer 2 \(residual\): its output is 32×32×8; .* its input, which is 32×32×4; .* 4 filters",
        ),
        ((Residual(layers=(Conv(filters=3), Flatten())),), r"layer 1 \(residual\): its output is 3072; that cannot"),
        ((Flatten(), Residual(layers=())), r"layer 2 \(residual\): its input is 3072; it needs a map"),
    ],
)
def test_layers_that_do_not_fit_are_refused(layers: tuple[Layer, ...], why: str) -> None:
    """The message names the layer, the shape there, and a way out."""
    with pytest.raises(ArchitectureError, match=why):
        rows(*layers)


def test_a_row_says_what_makes_a_layer_other_than_a_plain_one() -> None:
    """Strides, dilation and the like change shapes and counts: they stand beside them."""
    found = rows(
        Conv(filters=4, strides=(2, 1), padding="valid"),
        Conv(filters=4, dilation_rate=2, batch_norm=True, activation="linear", pool=2),
        Pool(strides=1),
        Dropout(rate=0.25),
        GlobalPool(),
        Dense(units=3, l2=0.001),
    )
    assert [row.details for row in found] == [
        "valid, stride 2×1, relu",
        "dilation 2, pool 2, batch norm",
        "stride 1",
        "0.25",
        "",
        "relu, L2 0.001",
        "",
    ]


def test_a_pool_inside_a_convolution_spares_what_comes_after_it() -> None:
    """It counts as a convolution and a pool; only the normalisation is done on the smaller map."""
    (inside, _, _) = rows(Conv(filters=8, pool=2, batch_norm=True), GlobalPool())
    (conv, pool, _, _) = rows(Conv(filters=8, batch_norm=True), Pool(), GlobalPool())
    assert (inside.shape, inside.receptive_field) == (pool.shape, pool.receptive_field)
    assert (inside.parameters, inside.multiply_adds) == (conv.parameters, conv.multiply_adds)


def test_the_layers_of_a_residual_are_listed_one_by_one() -> None:
    """They are where the parameters are; the sum at the end has none."""
    found = rows(Conv(filters=4), Residual(layers=(Conv(filters=6), Conv(filters=4))), GlobalPool())
    assert [row.name for row in found] == [
        "conv 3×3",
        "conv 3×3",
        "conv 3×3",
        "residual",
        "global average pool",
        "logits",
    ]
    assert (found[3].shape, found[3].parameters, found[3].receptive_field) == ((32, 32, 4), 0, (7, 7))


def test_whitening_has_two_filters_for_each_value_of_a_patch() -> None:
    """2×2 pixels of three colours are 12 values: 24 filters of 12 weights, and 24 biases."""
    whiten, *_ = rows(Whiten(), GlobalPool())
    assert (whiten.shape, whiten.parameters, whiten.multiply_adds) == ((31, 31, 24), 312, 12 * 24 * 31 * 31)


def test_normalisation_must_fit_the_channels() -> None:
    """One value, or one for each channel; nothing is divided by 0."""
    for normalization, why in (
        (Normalization(mean=(1.0, 2.0)), r"normalization\.mean has 2 values, images 3 channels"),
        (Normalization(std=(1.0, 0.0, 1.0)), r"normalization\.std is 0"),
    ):
        with pytest.raises(ArchitectureError, match=why):
            lay_out(Architecture(layers=(Flatten(),), normalization=normalization), COLOUR, 10)


def test_a_description_survives_being_written() -> None:
    """JSON and back gives the same description; a wrong key or value does not pass."""
    architecture = Architecture(
        layers=(
            Whiten(kernel_size=3),
            Conv(filters=4, kernel_size=(3, 5), l2=0.001, pool=2),
            Residual(layers=(Residual(layers=(Conv(filters=4),)),), activation="silu"),
            SeparableConv(filters=4, batch_norm=True),
            BatchNorm(),
            Activate(activation="gelu"),
            Pool(kind="average", strides=1),
            GlobalPool(kind="max"),
            Dropout(rate=0.5),
            Dense(units=8),
        ),
        normalization=Normalization(mean=(1.0, 2.0, 3.0)),
    )
    assert msgspec.json.decode(msgspec.json.encode(architecture), type=Architecture) == architecture
    for wrong in (
        {"layer": "conv", "filters": 4, "kernel": 3},
        {"layer": "conv"},
        {"layer": "conv", "filters": 0},
        {"layer": "lstm"},
        {"layer": "dropout", "rate": 1.0},
        {"layer": "conv", "filters": 4, "kernel_size": (1, 2, 3)},
    ):
        with pytest.raises(msgspec.ValidationError):
            msgspec.convert({"layers": [wrong]}, Architecture)


def test_a_description_can_be_written_in_toml() -> None:
    """The same keys, for people."""
    text = """
        layers = [
            {layer = "conv", filters = 8, kernel_size = [3, 5], batch_norm = true},
            {layer = "flatten"},
        ]
        [normalization]
        std = [1.0, 2.0, 3.0]
    """
    expected = Architecture(
        layers=(Conv(filters=8, kernel_size=(3, 5), batch_norm=True), Flatten()),
        normalization=Normalization(std=(1.0, 2.0, 3.0)),
    )
    assert msgspec.toml.decode(text, type=Architecture) == expected
