"""`convtrain options`: every key of a preset file, from the classes that read it."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import msgspec
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from convserve import docstrings
from convserve.manifest import DecodePolicy, InputSpec
from convtrain.architectures import Conv, Layer, Normalization
from convtrain.config import TrainingConfig
from convtrain.presets import Preset


def options(arguments: argparse.Namespace, _: Sequence[str]) -> None:
    """List the keys of a preset file."""
    tables = dict(_tables())
    if arguments.json:
        print(json.dumps(tables))
        return
    console = Console()
    console.print("A preset file is TOML; `base` names a preset that all is taken from that the file does not say.\n")
    for title, rows in tables.items():
        table = Table(
            "key", "value", "default", "what it is", title=escape(title), title_justify="left", box=None, pad_edge=False
        )
        for row in rows:
            table.add_row(row["key"], row["value"], row["default"], row["text"])
        console.print(table)
        console.print()


def _tables() -> Iterator[tuple[str, list[dict[str, str]]]]:
    """Titles of TOML tables with their keys."""
    yield (
        "top level",
        [row for row in _rows(Preset) if row["key"] not in ("input", "decode", "architecture", "training")],
    )
    yield "[input]", _rows(InputSpec)
    yield "[decode]", _rows(DecodePolicy)
    yield "[training]", _rows(TrainingConfig)
    for field, hint in get_type_hints(TrainingConfig).items():
        for kind in (hint, *get_args(hint)):
            if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
                tag = kind.__struct_config__.tag
                yield f"[training.{field}]" + (f' with name = "{tag}"' if tag else ""), _rows(kind)
    yield "[architecture.normalization]", _rows(Normalization)
    for kind in get_args(Layer):
        yield f'[[architecture.layers]] with layer = "{kind.__struct_config__.tag}"', _rows(kind)


def _rows(kind: Any) -> list[dict[str, str]]:
    """Key, kind of value, default and description of every field."""
    hints = get_type_hints(kind)
    texts = docstrings.of_fields(Conv) | docstrings.of_fields(
        kind
    )  # a separable convolution's fields are those of a convolution
    return [
        {
            "key": field.name,
            "value": _kind(hints[field.name]),
            "default": _default(field),
            "text": texts.get(field.name, ""),
        }
        for field in msgspec.structs.fields(kind)
    ]


def _kind(hint: Any) -> str:
    """What may stand after the key, in a few characters."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return _kind(inner[0])
    if origin is Literal:
        return ", ".join(json.dumps(choice) for choice in inner)
    if origin is tuple:
        return f"list of {_kind(inner[0])}s"
    if inner:  # a union
        return " or ".join(dict.fromkeys(_kind(choice) for choice in inner if choice is not type(None)))
    if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
        return "table"
    names = {int: "number", float: "number", str: "text", bool: "true or false"}
    return names.get(hint, str(hint))


def _default(field: Any) -> str:
    if field.default is msgspec.NODEFAULT:
        return "(required)" if field.default_factory is msgspec.NODEFAULT else "(none)"
    if isinstance(field.default, msgspec.Struct):
        return "(see below)"
    return json.dumps(field.default) if field.default is not None else "(none)"
