"""Presets are complete, and overriding them is checked."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import msgspec
import pytest
from msgspec import inspect

from convserve.manifest import InputSpec
from convtrain.architectures import Conv, Dropout, Pool
from convtrain.config import Loss, Sgd
from convtrain.errors import PresetError
from convtrain.layout import lay_out
from convtrain.presets import PRESETS, Preset, find

PARAMETERS = {
    "mnist": 488_026,
    "cifar10": 2_492_738,
    "cifar10-96": 12_434_242,
    "mnist-simple": 225_034,
    "mnist-deep": 1_199_882,
    "mnist-batchnorm": 1_626_154,
    "mnist-separable": 3_898,
    "cifar10-simple": 356_810,
    "cifar10-strided": 356_810,
    "cifar10-regularized": 356_810,
    "cifar10-dilated": 157_226,
    "images": 243_178,
}


@pytest.mark.parametrize(("name", "parameters"), PARAMETERS.items())
def test_parameters_are_as_published(name: str, parameters: int) -> None:
    """The presets to serve, and the networks of the tutorials, to the last parameter."""
    preset = find(name)
    assert sum(row.parameters for row in lay_out(preset.architecture, preset.input, 10)) == parameters


def test_the_page_about_models_says_the_same() -> None:
    """Its table of presets is copied from nowhere."""
    text = (Path(__file__).parents[3] / "docs/models.md").read_text()
    rows = re.findall(r"^\| `(.+?)` \| ([\d,]+) \|", text, flags=re.M)
    assert len(rows) >= len(PARAMETERS)
    for name, parameters in rows:
        preset = find(name)
        counted = sum(row.parameters for row in lay_out(preset.architecture, preset.input, 10))
        assert counted == int(parameters.replace(",", "")), name


def test_each_preset_is_what_its_name_says() -> None:
    """The building block it is named after is in it."""
    layers = {name: preset.architecture.layers for name, preset in PRESETS.items()}
    convolutions = {name: [layer for layer in found if isinstance(layer, Conv)] for name, found in layers.items()}
    assert all(conv.batch_norm and conv.padding == "same" for conv in convolutions["mnist-batchnorm"])
    separable = lay_out(find("mnist-separable").architecture, find("mnist-separable").input, 10)[2]
    assert (separable.name, separable.parameters) == ("separable_conv 3×3", 688)
    assert all(conv.strides == 2 for conv in convolutions["cifar10-strided"])
    assert not any(isinstance(layer, Pool) for layer in layers["cifar10-strided"])
    assert all(conv.l2 == 0.001 for conv in convolutions["cifar10-regularized"])
    after_pools = [after for layer, after in pairwise(layers["cifar10-regularized"]) if isinstance(layer, Pool)]
    assert len(after_pools) == 3
    assert all(isinstance(layer, Dropout) for layer in (*after_pools, layers["cifar10-regularized"][-1]))
    assert max(conv.dilation_rate for conv in convolutions["cifar10-dilated"]) == 2


def test_the_simple_preset_of_digits_is_trained_as_in_the_tutorials() -> None:
    """One-hot labels, categorical cross-entropy from softmax, batches of 32, a fifth to validate, all ten epochs."""
    training = find("mnist-simple").training
    assert training.loss == Loss(labels="one-hot", computed_from="probabilities")
    assert (training.batch_size, training.validation_fraction) == (32, 0.2)
    assert (training.epochs, training.early_stopping_patience) == (10, None)


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_survives_being_written(name: str) -> None:
    """Run records and manifests hold all of it."""
    assert msgspec.json.decode(msgspec.json.encode(PRESETS[name]), type=Preset) == PRESETS[name]


def test_overriding_changes_what_was_named_and_nothing_else() -> None:
    """None leaves a field as it is."""
    preset = find("mnist-deep")
    changed = preset.override(epochs=2, learning_rate=0.5, model="digits", seed=None)
    assert (changed.training.epochs, changed.training.optimizer.learning_rate, changed.model) == (2, 0.5, "digits")
    assert changed.override(epochs=5, learning_rate=0.001, model="mnist") == preset
    small = InputSpec(height=8, width=9, channels=1)
    assert preset.override(input=small).input == small


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("epochs", 0),
        ("batch_size", 0),
        ("learning_rate", 0.0),
        ("learning_rate", -1.0),
        ("learning_rate", math.inf),
        ("learning_rate", math.nan),
        ("validation_fraction", 1.0),
        ("seed", -1),
        ("seed", 2**31),
        ("model", "../escape"),
        ("model", ""),
    ],
)
def test_values_out_of_range_are_refused(field: str, value: object) -> None:
    """The message names the preset and the field."""
    with pytest.raises(PresetError, match=rf"preset mnist-deep: .*{field}"):
        find("mnist-deep").override(**{field: value})


def numbers(kind: inspect.Type, place: str, seen: set[type]) -> Iterator[tuple[str, inspect.FloatType]]:
    """Every number with a point in a description, and where it stands."""
    if isinstance(kind, inspect.FloatType):
        yield place, kind
    elif isinstance(kind, inspect.UnionType):
        for one in kind.types:
            yield from numbers(one, place, seen)
    elif isinstance(kind, inspect.VarTupleType):
        yield from numbers(kind.item_type, place, seen)
    elif isinstance(kind, inspect.StructType) and kind.cls not in seen:
        seen.add(kind.cls)
        for field in kind.fields:
            yield from numbers(field.type, f"{kind.cls.__name__}.{field.name}", seen)


def test_no_number_of_a_preset_may_be_infinite_or_nan() -> None:
    """A bound on both sides refuses either, with the field and what is wanted."""
    found = list(numbers(inspect.type_info(Preset), "", set()))
    assert {"Muon.adam_learning_rate", "Dense.l2", "Normalization.std", "Augmentation.elastic_pixels"} <= {
        place for place, _ in found
    }
    unbounded = [
        place for place, kind in found if (kind.ge is None and kind.gt is None) or (kind.le is None and kind.lt is None)
    ]
    assert unbounded == []


def test_an_unknown_preset_is_an_error_that_lists_them() -> None:
    """Nobody has to look up the names."""
    with pytest.raises(PresetError, match=r"no preset 'nonsense'; there are .*mnist-simple, .*cifar10-simple"):
        find("nonsense")


def test_optimizers_are_told_apart_by_name() -> None:
    """A written optimizer reads as what it was."""
    fields = msgspec.to_builtins(find("mnist-deep"))
    fields["training"]["optimizer"] = {"name": "sgd", "learning_rate": 0.1}
    assert msgspec.convert(fields, Preset).training.optimizer == Sgd(learning_rate=0.1, momentum=0.9)
