"""A preset from a TOML file: whole, or as changes to one that there is; what is wrong is said with its place."""

from __future__ import annotations

import json
from pathlib import Path
from typing import get_args

import pytest

from convserve.manifest import InputSpec
from convtrain.architectures import Conv, Dense, Dropout, Flatten, Layer, Pool, SeparableConv
from convtrain.cli import run
from convtrain.config import Sgd, TrainingConfig
from convtrain.errors import ConvtrainError
from convtrain.presets import find

WHOLE = """
model = "pets"
dataset = "folder"

[input]
height = 48
width = 40
channels = 3

[training]
epochs = 5
batch_size = 16
validation_fraction = 0.2
optimizer = {name = "sgd", learning_rate = 0.1}

[architecture]
layers = [
    {layer = "conv", filters = 8, kernel_size = [3, 5], strides = 2, padding = "valid", activation = "elu", l2 = 0.001},
    {layer = "conv", filters = 8, dilation_rate = 2, batch_norm = true},
    {layer = "separable_conv", filters = 16},
    {layer = "pool", size = 2},
    {layer = "dropout", rate = 0.3},
    {layer = "flatten"},
    {layer = "dense", units = 32},
]
"""


def write(directory: Path, text: str) -> str:
    path = directory / "mine.toml"
    path.write_text(text)
    return str(path)


def test_a_whole_preset(tmp_path: Path) -> None:
    """Every block of the tutorials has a key; the file's name is the preset's."""
    preset = find(write(tmp_path, WHOLE))
    assert (preset.name, preset.model, preset.dataset) == ("mine", "pets", "folder")
    assert preset.input == InputSpec(height=48, width=40, channels=3)
    assert preset.training.optimizer == Sgd(learning_rate=0.1)
    assert preset.architecture.layers == (
        Conv(filters=8, kernel_size=(3, 5), strides=2, padding="valid", activation="elu", l2=0.001),
        Conv(filters=8, dilation_rate=2, batch_norm=True),
        SeparableConv(filters=16),
        Pool(),
        Dropout(rate=0.3),
        Flatten(),
        Dense(units=32),
    )


def test_changes_to_a_preset(tmp_path: Path) -> None:
    """What the file does not say is the base's; of another optimizer nothing is kept."""
    base = find("cifar10-simple")
    text = 'base = "cifar10-simple"\nmodel = "small"\n[training]\nepochs = 3\noptimizer = {name = "sgd"}\n'
    preset = find(write(tmp_path, text))
    assert (preset.model, preset.training.epochs, preset.training.optimizer) == ("small", 3, Sgd())
    assert preset.architecture == base.architecture
    assert preset.training.augmentation == base.training.augmentation
    preset = find(write(tmp_path, 'base = "mnist-deep"\n[[architecture.layers]]\nlayer = "flatten"\n'))
    assert preset.architecture.layers == (Flatten(),)
    assert preset.decode == find("mnist-deep").decode


def changed(old: str, new: str) -> str:
    assert old in WHOLE
    return WHOLE.replace(old, new)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("= 3", r"mine\.toml: not valid TOML"),
        ("a = " + 5000 * "[", r"mine\.toml: not valid TOML"),
        ('base = "nothing"', r"mine\.toml: base is 'nothing'; there are mnist, "),
        ('model = "x"', r"mine\.toml: the key 'dataset' is missing"),
        ('base = ["x"]', r"mine\.toml: base is \['x'\]; there are mnist, "),
        ('name = "a/b"' + WHOLE, r"mine\.toml: name is 'a/b'; wanted is text matching"),
        ('name = "a\\u0000"' + WHOLE, r"mine\.toml: name is 'a\\x00'; wanted is text matching"),
        (changed('"pets"', '"pets\\n"'), r"mine\.toml: model is 'pets\\n'; wanted is text matching"),
        (changed("model =", "modle ="), r"mine\.toml: there is no key 'modle'; did you mean model\? there are name, "),
        (
            changed("epochs = 5", "epoch = 5"),
            r"training: there is no key 'epoch'; did you mean epochs\? there are epochs, batch_size, ",
        ),
        (changed("batch_size = 16", "batch_size = 0"), r"training: batch_size is 0; wanted is a whole number >= 1"),
        (
            changed('name = "sgd"', 'name = "sdg"'),
            r"training\.optimizer: name is 'sdg'; did you mean sgd\? there are adam, sgd, muon",
        ),
        (
            changed('name = "sgd", learning', 'name = "sgd", momentm = 0.5, learning'),
            r"training\.optimizer: there is no key 'momentm'; did you mean momentum\? there are learning_rate, m",
        ),
        (changed("l2 = 0.001", "l2 = inf"), r"layer 1 \(conv\): l2 is inf; wanted is a number <= 3\.4e\+38"),
        (
            changed("batch_size = 16", "batch_size = 9876543210"),
            r"batch_size is 9876543210; wanted is .* <= 2147483647",
        ),
        (
            changed("filters = 16", "filters = 9876543210"),
            r"filters is 9876543210; wanted is a whole number <= 2147483",
        ),
        (
            changed("[3, 5]", "[3, 9876543210]"),
            r"layer 1 .*sizes are from 1 to 2147483647; here the window is 3×9876543210",
        ),
        (changed("rate = 0.3", "rate = 1.5"), r"layer 5 \(dropout\): rate is 1\.5; wanted is a number < 1"),
        (changed("filters = 16", "filters = -16"), r"layer 3 \(separable_conv\): filters is -16; wanted is a whole "),
        (changed('"valid"', '"full"'), r"layer 1 \(conv\): padding is 'full'; there are same, valid"),
        (changed('{layer = "flatten"}', '"flatten"'), r"layer 6: 'flatten'; wanted is a table"),
        (changed('layer = "flatten"', "units = 3"), r"layer 6: the key 'layer' is missing; there are conv, separable_"),
        (
            changed("kernel_size = [3, 5]", "kernel_sise = 3"),
            r"layer 1 \(conv\): there is no key 'kernel_sise'; did you mean kernel_size\? there are filters, ",
        ),
        (changed('"separable_conv"', '"seperable"'), r"layer is 'seperable'; did you mean separable_conv\? there"),
        (
            changed('{layer = "pool", size = 2}', '{layer = "residual", layers = [{layer = "conv", filter = 16}]}'),
            r"layer 4, its 1 \(conv\): there is no key 'filter'; did you mean filters\?",
        ),
        (changed("batch_norm = true", "strides = 2"), r"layer 2 \(conv 3×3\): .* exclude each other; leave one at 1"),
        (changed('    {layer = "flatten"},\n', ""), r"layer 6 \(dense\): its input is \d+×\d+×16; .*flatten"),
        (
            changed("epochs = 5", "epochs = 5\nprogressive_resizing = [{until = 0.5, scale = 0.5}]"),
            r"progressive_resizing needs \{layer = \"global_pool\"\}: flatten fits one size",
        ),
        (
            changed("epochs = 5", "epochs = 5\nprogressive_resizing = [{until = 0.5, scale = 0.1}]").replace(
                '"flatten"', '"global_pool"'
            ),
            r"scale 0\.1 makes images of 5×4: layer 1 \(conv 3×5\): its input is 5×4×3; the window is larger",
        ),
        (
            changed("height = ", "height = 1000000"),
            r"mine\.toml: preset .*: input is 1000000\d+×\d+; images have at most 100,000,000 pixels",
        ),
        (
            changed("size = 2}", "size = 30}"),
            r"layer 4 \(max pool 30×30\): .* the window is larger than the map, it covers 30×30; ",
        ),
    ],
)
def test_what_is_wrong_is_named(text: str, why: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The file, the layer, the shape there, and a way out."""
    path = write(tmp_path, text)
    with pytest.raises(ConvtrainError, match=why):
        find(path)
    assert run(["describe", path]) == 1
    assert capsys.readouterr().err.startswith(f"convtrain: error: {path}: ")


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    """As any other."""
    with pytest.raises(ConvtrainError, match=r"nowhere\.toml: cannot be read \(No such file"):
        find(str(tmp_path / "nowhere.toml"))


def test_a_file_is_described_like_a_preset(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Shapes, parameters, multiply-adds and receptive field of every layer."""
    path = write(tmp_path, WHOLE)
    assert run(["describe", path]) == 0
    table = capsys.readouterr().out
    for text in ("conv 3×5", "separable_conv 3×3", "multiply-adds", "sees pixels", "11×9×16"):
        assert text in table
    assert run(["describe", path, "--json"]) == 0
    layers = json.loads(capsys.readouterr().out)["layers"]
    assert layers[0] == {
        "name": "conv 3×5",
        "details": "valid, stride 2, elu, L2 0.001",
        "shape": [23, 18, 8],
        "parameters": 3 * 5 * 3 * 8 + 8,
        "multiply_adds": 3 * 5 * 3 * 8 * 23 * 18,
        "receptive_field": [3, 5],
    }


def test_every_key_is_listed(capsys: pytest.CaptureFixture[str]) -> None:
    """With what may stand there, what holds without it, and what it means."""
    assert run(["options", "--json"]) == 0
    tables = json.loads(capsys.readouterr().out)
    listed = {title: [row["key"] for row in rows] for title, rows in tables.items()}
    for kind in get_args(Layer):
        assert listed[f'[[architecture.layers]] with layer = "{kind.__struct_config__.tag}"'] == list(
            kind.__struct_fields__
        )
    assert listed["[training]"] == list(TrainingConfig.__struct_fields__)
    assert '[training.optimizer] with name = "sgd"' in listed
    assert all(row["text"] and row["value"] for rows in tables.values() for row in rows)
    padding = next(row for row in tables['[[architecture.layers]] with layer = "conv"'] if row["key"] == "padding")
    assert (padding["value"], padding["default"]) == ('"valid", "same"', '"same"')
    assert run(["options"]) == 0
    assert "[[architecture.layers]]" in capsys.readouterr().out
