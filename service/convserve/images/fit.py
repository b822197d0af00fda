"""Any size -> the model's size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image

from convserve.images import border

if TYPE_CHECKING:
    from convserve.manifest import DecodePolicy, InputSpec

Grey: TypeAlias = npt.NDArray[np.float32]
"""Brightness, float32 [height, width], 0..255."""

_RESAMPLING = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
    "box": Image.Resampling.BOX,
}

GLYPH_SHARE = 20 / 28
"""Share of the frame that a glyph's longer side takes: MNIST's digits were scaled into 20x20 of 28x28."""

_SEARCH_SIDE = 256
"""Longest side in pixels of the shrunken image in which a glyph is looked for."""

_BRIGHT_PIXELS = 16
"""A glyph has at least so many pixels of full strength; a few hot pixels are not one."""

_FAINTEST = 24
"""Weakest stroke, in grey values above the ground, that is taken for one."""

_INK_SHARE = 0.4
"""Share of the strongest stroke's brightness above the ground from which a pixel belongs to the glyph."""


def enough_pixels(spec: InputSpec, policy: DecodePolicy) -> int:
    """Pixels that a side keeps when a large file is decoded at a fraction of its size, so that no result suffers."""
    if policy.fit == "glyph":  # it may be a small part of the image
        return 8 * _SEARCH_SIDE
    return 4 * max(spec.width, spec.height)


def fit(image: Image.Image, spec: InputSpec, policy: DecodePolicy, steps: list[str]) -> Image.Image:
    """Bring an image of mode `L` or `RGB` to the size of `spec` in the way of `policy.fit`."""
    size = (spec.width, spec.height)
    filter_ = _RESAMPLING[policy.resample]
    if policy.fit == "glyph" and (found := _glyph(image, size, filter_, steps)) is not None:
        return found
    if policy.fit == "crop":
        return _crop(image, size, filter_, steps)
    if policy.fit == "stretch":
        steps.append(f"resized {_text(image.size)} to {_text(size)}")
        return image.resize(size, filter_)
    return _pad(image, size, filter_, steps)


def _crop(image: Image.Image, size: tuple[int, int], filter_: Image.Resampling, steps: list[str]) -> Image.Image:
    """Cut the longer side around the centre, then resize."""
    scale = min(image.width / size[0], image.height / size[1])
    width, height = min(size[0] * scale, image.width), min(size[1] * scale, image.height)  # rounding may go beyond
    left, top = (image.width - width) / 2, (image.height - height) / 2
    kept = (round(width), round(height))
    if kept != image.size:
        steps.append(f"cropped {_text(image.size)} to {_text(kept)}")
    if kept != size:
        steps.append(f"resized {_text(kept)} to {_text(size)}")
    return image.resize(size, filter_, box=(left, top, left + width, top + height))


def _pad(image: Image.Image, size: tuple[int, int], filter_: Image.Resampling, steps: list[str]) -> Image.Image:
    """Resize with the aspect ratio kept, and fill the rest with the colour of the image's border."""
    scale = min(size[0] / image.width, size[1] / image.height)
    inner = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    frame = Image.new(image.mode, size, border.colour(image))
    if inner != image.size:
        steps.append(f"resized {_text(image.size)} to {_text(inner)}")
        image = image.resize(inner, filter_)
    frame.paste(image, ((size[0] - inner[0]) // 2, (size[1] - inner[1]) // 2))
    if inner != size:
        steps.append(f"padded {_text(inner)} to {_text(size)}")
    return frame


def _glyph(
    image: Image.Image, size: tuple[int, int], filter_: Image.Resampling, steps: list[str]
) -> Image.Image | None:
    """Do to a drawing of light strokes on a dark ground what was done to make MNIST's digits.

    The ground becomes black and the strongest stroke white; the strokes' bounding box is scaled into `GLYPH_SHARE` of
    the frame, and their centre of mass comes to the middle (LeCun et al., 1998, and yann.lecun.com/exdb/mnist). None
    when the image shows no strokes.
    """
    grey = image.convert("L")
    factor = -(-max(grey.size) // _SEARCH_SIDE)
    small = np.asarray(grey.reduce(factor), np.float32)  # averages: single specks fade
    ground = _Ground.of(small, factor)
    box = _ink_box(small - ground.at((0, 0, small.shape[1] * factor, small.shape[0] * factor), small.shape))
    if box is None:
        return None
    left, top, right, bottom = (edge * factor for edge in box)
    right, bottom = min(right, grey.width), min(bottom, grey.height)
    scale = GLYPH_SHARE * min(size[0] / (right - left), size[1] / (bottom - top))
    inner = (max(1, round((right - left) * scale)), max(1, round((bottom - top) * scale)))
    strokes = np.asarray(grey.resize(inner, filter_, box=(left, top, right, bottom)), np.float32)
    ink = np.maximum(strokes - ground.at((left, top, right, bottom), strokes.shape), 0)
    if ink.max() < _FAINTEST / 2:  # strokes so thin that they vanish
        return None
    ink *= 255 / ink.max()
    position = (_offset(ink.sum(axis=0), size[0]), _offset(ink.sum(axis=1), size[1]))
    frame = Image.new("L", size)
    frame.paste(Image.fromarray(np.rint(ink).astype(np.uint8)), position)
    steps.append(f"cropped {_text(image.size)} to strokes of {right - left}x{bottom - top}")
    steps.append(f"resized strokes to {_text(inner)}, centred by mass in {_text(size)}")
    return frame.convert(image.mode)


@dataclass(frozen=True)
class _Ground:
    """The ground's brightness as a plane over the image: paper under a lamp is lighter on one side."""

    level: float
    """Grey value at the top left corner."""
    per_column: float
    """Grey values that it rises by from one column to the next."""
    per_row: float
    """Grey values that it rises by from one row to the next."""

    @classmethod
    def of(cls, small: Grey, factor: int) -> _Ground:
        """Fit the plane to the outermost pixels of an image that was shrunk by `factor`.

        The fifth of them that lies farthest from a first fit is left out: strokes may touch the border.
        """
        outer = np.zeros(small.shape, np.bool_)
        outer[[0, -1], :] = outer[:, [0, -1]] = True
        y, x = outer.nonzero()
        points = np.column_stack((np.ones(len(x)), factor * (x + 0.5), factor * (y + 0.5)))
        values = small[outer]
        plane = np.linalg.lstsq(points, values)[0]
        distance = np.abs(points @ plane - values)
        near = distance <= np.quantile(distance, 0.8)
        return cls(*np.linalg.lstsq(points[near], values[near])[0].tolist())

    def at(self, box: tuple[int, int, int, int], shape: tuple[int, ...]) -> Grey:
        """Brightness over a box of the image, sampled at `shape` points: float32 [rows, columns]."""
        left, top, right, bottom = box
        rows, columns = shape
        x = left + (np.arange(columns) + 0.5) * (right - left) / columns
        y = top + (np.arange(rows) + 0.5) * (bottom - top) / rows
        return (self.level + self.per_row * y[:, None] + self.per_column * x).astype(np.float32)


def _ink_box(ink: Grey) -> tuple[int, int, int, int] | None:
    """Left, top, right and bottom of what is lighter than the ground; None when nothing is."""
    strongest = np.sort(ink, axis=None)[-_BRIGHT_PIXELS:][0]
    if strongest < _FAINTEST:
        return None
    mask = ink >= _INK_SHARE * strongest
    (columns,), (rows,) = mask.any(axis=0).nonzero(), mask.any(axis=1).nonzero()
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def _offset(mass: npt.NDArray[np.float32], side: int) -> int:
    """Where strokes of this mass along an axis begin, so that their centre is the middle of `side` pixels."""
    centre = float(np.average(np.arange(len(mass)) + 0.5, weights=mass))
    return min(max(round(side / 2 - centre), 0), side - len(mass))


def _text(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"
