"""What may be an image, and how it is read."""

from __future__ import annotations

import os
import sys
from io import BytesIO
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from convserve.errors import InvalidRequestError


class Readable(Protocol):
    """A file object open for reading bytes."""

    def read(self) -> bytes:
        """Return the rest of the file."""


class ArrayLike(Protocol):
    """A numpy array, a Pillow image, or anything else that speaks numpy's array interface."""

    @property
    def __array_interface__(self) -> dict[str, Any]:
        """Describe the array's memory."""


ImageLike: TypeAlias = str | os.PathLike[str] | bytes | bytearray | memoryview | Readable | ArrayLike
"""One image: the path of an image file, its bytes, a file object, a Pillow image, or a uint8 array [H, W] or [H, W, C].

Files and Pillow images may have any size and mode; the server brings them to the model's. Arrays must have the model's
shape: they travel as they are.
"""

Pixels: TypeAlias = npt.NDArray[np.uint8]
"""uint8 [height, width, channels], C-contiguous."""

Loaded: TypeAlias = bytes | Pixels
"""An image that was read: a file for the server to decode, or pixels that travel as they are."""


def load(image: ImageLike, index: int) -> Loaded:
    """Read one image: bytes of a file for the server to decode, or pixels that travel as they are.

    Raises:
        InvalidRequestError: this is no image; the field is `images[index]`.
        OSError: the file cannot be read.
    """
    if type(image) is np.ndarray:
        return _pixels(image, index)
    if isinstance(image, str | os.PathLike):
        return _read_path(image, index)
    if isinstance(image, bytes | bytearray | memoryview):
        return bytes(image)
    pillow = sys.modules.get("PIL.Image")  # whoever holds a Pillow image has imported it
    if pillow is not None and isinstance(image, pillow.Image):
        return _encode_pillow(image, pillow, index)
    if hasattr(image, "__array_interface__") or hasattr(image, "__array__"):
        return _pixels(np.asarray(image), index)
    if hasattr(image, "read"):
        return _read_file(image, index)
    raise InvalidRequestError.of(
        f"images[{index}]",
        f"is a {type(image).__name__}; give a path, bytes, a file object, a Pillow image or a uint8 array",
    )


def _read_path(path: str | os.PathLike[str], index: int) -> bytes:
    try:
        return Path(path).read_bytes()
    except ValueError as error:  # a null byte: rather the content of a file
        raise InvalidRequestError.of(
            f"images[{index}]", f"is a {type(path).__name__} that is no path: {error}"
        ) from error


def _read_file(file: Readable, index: int) -> bytes:
    content: Any
    try:
        content = file.read()
    except UnicodeDecodeError:  # text, which images are not
        content = None
    except ValueError as error:  # it was closed
        raise InvalidRequestError.of(f"images[{index}]", f"is a file that cannot be read: {error}") from error
    if isinstance(content, bytes | bytearray | memoryview):
        return bytes(content)
    raise InvalidRequestError.of(f"images[{index}]", "is a file open for text; open it with mode 'rb'")


def takes_time(image: object) -> bool:
    """Whether reading an image may block or compute for long, so that an event loop should not wait for it."""
    if type(image) is np.ndarray:
        return False
    if isinstance(image, str | os.PathLike) or hasattr(image, "read"):
        return True
    pillow = sys.modules.get("PIL.Image")
    return pillow is not None and isinstance(image, pillow.Image)


def _pixels(array: npt.NDArray[Any], index: int) -> Pixels:
    if array.dtype != np.uint8:
        hint = ": (x * 255).round().astype(numpy.uint8) if it is 0 to 1" if array.dtype.kind == "f" else ""
        raise InvalidRequestError.of(
            f"images[{index}]", f"is an array of {array.dtype}; pixels are uint8, 0 to 255, so convert it{hint}"
        )
    if array.ndim == 2:
        array = array[:, :, None]
    if array.ndim != 3 or array.size == 0:
        hint = "; several images go to classify_batch" if array.ndim == 4 else ""
        raise InvalidRequestError.of(
            f"images[{index}]",
            f"is an array of shape {list(array.shape)}; one image is [height, width] or [height, width, channels]"
            f"{hint}",
        )
    return array if array.flags.c_contiguous else np.ascontiguousarray(array)


_PNG_MODES = {mode: mode for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")} | {
    "La": "LA",
    "PA": "RGBA",
    "RGBa": "RGBA",
    "RGBX": "RGB",
    "CMYK": "RGB",
    "YCbCr": "RGB",
    "HSV": "RGB",
}
"""Pillow's modes, and the mode that PNG has for them."""

_EXIF_ORIENTATION = 0x0112


def _encode_pillow(image: Any, pillow: Any, index: int) -> bytes:
    """Encode a Pillow image as PNG. An orientation that it still carries goes along, as it would with its file."""
    mode = _PNG_MODES.get(image.mode)
    if mode is None:
        raise InvalidRequestError.of(
            f"images[{index}]",
            f"is a Pillow image of mode {image.mode}; convert it to L or RGB, whose samples are 0 to 255",
        )
    exif = pillow.Exif()
    orientation = _orientation(image)
    if orientation != 1:
        exif[_EXIF_ORIENTATION] = orientation
    buffer = BytesIO()
    try:
        converted = image if mode == image.mode else image.convert(mode)
        converted.save(buffer, "PNG", compress_level=1, exif=exif)
    except (ValueError, SyntaxError) as error:  # the latter from its reader of PNG files, which may read only now
        raise InvalidRequestError.of(
            f"images[{index}]", f"is a Pillow image that cannot be written as PNG: {error}"
        ) from error
    return buffer.getvalue()


def _orientation(image: Any) -> int:
    """The orientation in a Pillow image's EXIF data; 1 when there are none, or damaged ones, as the server has it."""
    try:
        orientation = image.getexif().get(_EXIF_ORIENTATION, 1)
    except Exception:  # noqa: BLE001  # Pillow's reader raises what the bytes make it
        return 1
    return orientation if isinstance(orientation, int) and 1 <= orientation <= 8 else 1
