"""Complete, named trainings: `preset.py` says what one holds, the other files are those there are."""

from __future__ import annotations

from convtrain.errors import PresetError
from convtrain.presets import cifar10, mnist
from convtrain.presets.preset import Preset

__all__ = ["PRESETS", "Preset", "find"]

PRESETS = {preset.name: preset for preset in (*mnist.ALL, *cifar10.ALL)}


def find(name: str) -> Preset:
    """Find a preset by its name.

    Raises:
        PresetError: there is none of that name.
    """
    try:
        return PRESETS[name]
    except KeyError:
        raise PresetError(f"there is no preset {name!r}; there are {', '.join(PRESETS)}") from None
