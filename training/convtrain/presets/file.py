"""A preset in a TOML file: all of it, or what differs from one that there is.

::

    base = "cifar10-simple"          # take from this preset what is not said here
    model = "pets"                   # name to publish under
    dataset = "folder"

    [input]
    height = 48
    width = 48
    channels = 3

    [training]
    epochs = 20

    [[architecture.layers]]
    layer = "conv"
    filters = 32

`convtrain options` lists every key.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from convtrain.errors import ArchitectureError, PresetError
from convtrain.presets.explanation import explain
from convtrain.presets.preset import Preset

_TAGGED = "name"
"""Key that tells one kind of optimizer from another; keys of one kind mean nothing to another."""


def read(path: Path, presets: Mapping[str, Preset]) -> Preset:
    """Read a preset.

    Args:
        path: the TOML file. Without the key `name`, its own name is the preset's.
        presets: what `base` may name.

    Raises:
        PresetError: the file cannot be read, or a key or value is not valid; names the file, the place and what fits.
        ArchitectureError: the layers do not fit together.
    """
    try:
        fields = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise PresetError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from error
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise PresetError(f"{path}: not valid TOML: {error}") from error
    fields = {"name": path.stem, "summary": f"from {path.name}", **fields}
    base = fields.pop("base", None)
    if base is not None:
        if not isinstance(base, str) or base not in presets:
            raise PresetError(f"{path}: base is {base!r}; there are {', '.join(presets)}")
        fields = _merged(msgspec.to_builtins(presets[base]), fields)
    try:
        preset = msgspec.convert(fields, Preset)
    except msgspec.ValidationError as error:
        raise PresetError(f"{path}: {explain(error, fields, Preset)}") from error
    try:
        preset.check()
    except (ArchitectureError, PresetError) as error:
        raise type(error)(f"{path}: {error}") from error
    return preset


def _merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Tables are merged key by key, all else is replaced; so is a table that became one of another kind."""
    result = dict(base)
    for key, value in changes.items():
        old = base.get(key)
        if (
            isinstance(old, dict)
            and isinstance(value, dict)
            and value.get(_TAGGED, old.get(_TAGGED)) == old.get(_TAGGED)
        ):
            result[key] = _merged(old, value)
        else:
            result[key] = value
    return result
