"""`convtrain presets` and `convtrain describe`: what there is to train. Neither needs TensorFlow."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict

import msgspec
from rich.console import Console
from rich.table import Table

from convtrain import layout
from convtrain.presets import PRESETS, Preset, find

EXAMPLE_CLASSES = 10
PIPED_WIDTH = 160


def presets(options: argparse.Namespace, _: Sequence[str]) -> None:
    """List the presets."""
    if options.json:
        print(json.dumps([msgspec.to_builtins(preset) for preset in PRESETS.values()]))
        return
    table = Table("preset", "model", "input", "parameters", "epochs", "what it is", box=None, pad_edge=False)
    for preset in PRESETS.values():
        parameters = sum(row.parameters for row in _rows(preset))
        size = "×".join(map(str, preset.input.shape))
        table.add_row(preset.name, preset.model, size, f"{parameters:,}", str(preset.training.epochs), preset.summary)
    _console().print(table)


def describe(options: argparse.Namespace, _: Sequence[str]) -> None:
    """Show a preset's layers, for ten classes."""
    preset = find(options.preset)
    rows = _rows(preset)
    parameters, multiply_adds = sum(row.parameters for row in rows), sum(row.multiply_adds for row in rows)
    if options.json:
        layers = [asdict(row) for row in rows]
        print(json.dumps({"layers": layers, "parameters": parameters, "multiply_adds": multiply_adds}))
        return
    table = Table(box=None, pad_edge=False)
    table.add_column("layer", no_wrap=True)
    table.add_column("details")
    for name in ("output", "parameters", "multiply-adds", "sees pixels"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_row("image (uint8)", "", "×".join(map(str, preset.input.shape)), "", "", "1×1")
    for row in rows:
        seen = "all" if row.receptive_field is None else "×".join(map(str, row.receptive_field))
        shape = "×".join(map(str, row.shape))
        table.add_row(row.name, row.details, shape, f"{row.parameters:,}", f"{row.multiply_adds:,}", seen)
    table.add_row("total", "", "", f"{parameters:,}", f"{multiply_adds:,}", "")
    _console().print(table)


def _console() -> Console:
    """As wide as the terminal; wide enough for every line where there is none."""
    console = Console()
    return console if console.is_terminal else Console(width=PIPED_WIDTH)


def _rows(preset: Preset) -> list[layout.Row]:
    return layout.lay_out(preset.architecture, preset.input, EXAMPLE_CLASSES)
