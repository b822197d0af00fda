"""Images to send: a folder of labelled images, an .npz file, or noise."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from convserve.errors import ConfigError, ConvserveError, RuntimeNotInstalledError

SYNTHETIC = "synthetic"
_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".webp"}
_IMAGE_NAMES = ("images", "test_images", "image", "x_test")
_LABEL_NAMES = ("labels", "test_labels", "label", "y_test")

Pixels = npt.NDArray[np.uint8]
"""uint8 [H, W, C]."""


@dataclass(frozen=True)
class Sample:
    """One image."""

    content: Pixels | bytes
    """Pixels in the model's shape, or an image file as it is."""
    label: int | None
    """The true class's position in the model's output, where it is known."""


@dataclass(frozen=True)
class ModelFacts:
    """What has to be known of a model to send it images."""

    shape: tuple[int, int, int]
    """Height, width, channels."""
    labels: tuple[str, ...]
    """Class names in the order of the output."""


def load(source: str, form: str, model: ModelFacts, count: int, seed: int) -> list[Sample]:
    """Read up to `count` samples, spread evenly over the source, in random order: a short run sends the first of them.

    Args:
        source: a folder with a folder of images for each class; an .npz file with `images` and, where known, `labels`
            (also as `test_images` and `test_labels`); or `synthetic`.
        form: `packed` makes pixels of the model's shape, `encoded` image files.
        model: shape and labels.
        count: most samples.
        seed: of synthetic images and of the order.

    Raises:
        ConfigError: the source cannot be used; says why.
    """
    if source == SYNTHETIC:
        pixels = np.random.default_rng(seed).integers(0, 256, (count, *model.shape), dtype=np.uint8)
        return [Sample(_in_form(image, form), None) for image in pixels]
    path = Path(source)
    try:
        if path.is_dir():
            found = _from_folder(path, form, model, count)
        elif path.suffix == ".npz" and path.is_file():
            found = _from_npz(path, form, model, count)
        else:
            raise ConfigError(f"data: {source} is neither a folder, nor an .npz file, nor the word {SYNTHETIC!r}")
    except ConvserveError:
        raise
    except Exception as error:  # zipfile, zlib and NumPy raise what the bytes make them
        raise ConfigError(f"data: {source} cannot be read: {error}") from error
    np.random.default_rng(seed).shuffle(found)
    return found


def _from_npz(path: Path, form: str, model: ModelFacts, count: int) -> list[Sample]:
    with path.open("rb") as file, np.load(file) as arrays:
        name = next((name for name in _IMAGE_NAMES if name in arrays), None)
        if name is None:
            raise ConfigError(f"data: {path} holds {', '.join(arrays)}; wanted is one of {', '.join(_IMAGE_NAMES)}")
        images = arrays[name]
        label_name = next((name for name in _LABEL_NAMES if name in arrays), None)
        labels = None if label_name is None else arrays[label_name].reshape(-1)
    if images.ndim == 3:
        images = images[..., None]
    if images.dtype != np.uint8 or images.shape[1:] != model.shape or not len(images):
        raise ConfigError(
            f"data: {path}: {name} is {images.dtype} {list(images.shape)}; the model takes uint8 {[-1, *model.shape]}"
        )
    if labels is not None and len(labels) != len(images):
        raise ConfigError(f"data: {path}: {len(images)} images and {len(labels)} labels")
    return [
        Sample(_in_form(images[index], form), None if labels is None else int(labels[index]))
        for index in _spread(len(images), count)
    ]


def _from_folder(root: Path, form: str, model: ModelFacts, count: int) -> list[Sample]:
    classes = sorted(entry for entry in root.iterdir() if entry.is_dir())
    files = [(path, folder.name) for folder in classes for path in _images_in(folder)]
    files += [(path, "") for path in _images_in(root)]
    if not files:
        raise ConfigError(f"data: {root} holds no images ({', '.join(sorted(_SUFFIXES))}), and no folders with some")
    position = {label: index for index, label in enumerate(model.labels)}
    samples = []
    for index in _spread(len(files), count):
        path, label = files[index]
        content = path.read_bytes()
        samples.append(Sample(content if form == "encoded" else _decode(content, model, path), position.get(label)))
    return samples


def _images_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in _SUFFIXES)


def _spread(available: int, wanted: int) -> Sequence[int]:
    """Positions evenly over what is there."""
    return [round(place) for place in np.linspace(0, available - 1, min(wanted, available)).tolist()]


def _in_form(pixels: Pixels, form: str) -> Pixels | bytes:
    if form == "packed":
        return pixels
    image = _pillow().fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def _decode(content: bytes, model: ModelFacts, path: Path) -> Pixels:
    height, width, channels = model.shape
    image = _pillow()
    try:
        with image.open(io.BytesIO(content)) as opened:
            converted = opened.convert("L" if channels == 1 else "RGB").resize((width, height))
    except Exception as error:  # as above; Pillow has classes of its own too
        raise ConfigError(f"data: {path} cannot be decoded: {error}") from error
    return np.asarray(converted, np.uint8).reshape(model.shape)


def _pillow() -> Any:
    try:
        from PIL import Image
    except ModuleNotFoundError as error:
        raise RuntimeNotInstalledError("PIL is not installed; install: pip install 'convserve[loadtest]'") from error
    return Image
