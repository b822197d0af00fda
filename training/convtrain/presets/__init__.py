"""Complete, named trainings: `preset.py` says what one holds, the other files are those there are."""

from __future__ import annotations

from pathlib import Path

from convtrain.errors import PresetError
from convtrain.presets import champions, cifar10, file, images, mnist
from convtrain.presets.preset import Preset

__all__ = ["FOR_FOLDERS", "PRESETS", "Preset", "find"]

PRESETS = {preset.name: preset for preset in (*champions.ALL, *mnist.ALL, *cifar10.ALL, *images.ALL)}
FOR_FOLDERS = images.IMAGES
"""What trains a folder when no preset is named."""


def find(name: str) -> Preset:
    """Find a preset by its name, or read one from a file whose name ends in `.toml`.

    Raises:
        PresetError: there is none of that name, or the file is not a valid preset.
        ArchitectureError: the file's layers do not fit together.
    """
    if name.endswith(".toml"):
        return file.read(Path(name), PRESETS)
    try:
        return PRESETS[name]
    except KeyError:
        raise PresetError(
            f"there is no preset {name!r}; there are {', '.join(PRESETS)}, or a file that ends in .toml"
        ) from None
