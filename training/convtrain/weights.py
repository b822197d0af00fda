"""Weights of a Keras model in an npz file: plain arrays, nothing that could run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from convtrain import files
from convtrain.errors import RunError
from convtrain.files import Arrays


def pack(prefix: str, variables: Sequence[Any]) -> Arrays:
    """Copy the values of Keras variables into arrays named `<prefix>/<index>`."""
    return {f"{prefix}/{index:03}": np.array(variable.numpy()) for index, variable in enumerate(variables)}


def unpack(arrays: Arrays, prefix: str, variables: Sequence[Any], source: Path) -> None:
    """Give Keras variables the values of the arrays named `<prefix>/<index>`.

    Raises:
        RunError: there are fewer or more arrays, or a shape differs; names `source`.
    """
    names = sorted(
        (name for name in arrays if name.startswith(f"{prefix}/")),
        key=lambda name: int(name.removeprefix(f"{prefix}/")),
    )
    if len(names) != len(variables):
        raise RunError(f"{source}: holds {len(names)} arrays of the {prefix}, the network has {len(variables)}")
    for name, variable in zip(names, variables, strict=True):
        if arrays[name].shape != tuple(variable.shape):
            raise RunError(
                f"{source}: {name} has the shape {arrays[name].shape}, the network's {variable.path} has "
                f"{tuple(variable.shape)}"
            )
        variable.assign(arrays[name])


def read(path: Path) -> Arrays:
    """Read all arrays of a file.

    Raises:
        RunError: it is missing or damaged.
    """
    try:
        return files.read_arrays(path)
    except (OSError, ValueError) as error:
        raise RunError(f"{path}: cannot be read ({error})") from error


def save(path: Path, model: Any) -> None:
    """Write a model's weights atomically."""
    files.write_arrays(path, pack("weights", model.weights))


def load(path: Path, model: Any) -> None:
    """Give a model the weights of a file.

    Raises:
        RunError: the file is missing, damaged, or of another network.
    """
    unpack(read(path), "weights", model.weights, path)
