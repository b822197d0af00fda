"""Turn image files into the model's input. No gRPC in here; Pillow and numpy only.

One image walks down this package::

    files.py    what file is it, how big does it say it is, its pixels, upright
    colour.py   any colour mode -> grey or red, green, blue
    border.py   is it dark on light? what colour is the paper?
    fit.py      any size -> the model's size

A file that has the model's size and mode already comes out with its own pixels, to the byte. Everything here is safe
to call from many threads.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from convserve.images import border, colour, files, fit

if TYPE_CHECKING:
    import numpy.typing as npt

    from convserve.manifest import DecodePolicy, InputSpec

__all__ = ["Decoded", "decode"]


@dataclass(frozen=True, slots=True)
class Decoded:
    """One image as the model takes it, and what was done to the file."""

    pixels: npt.NDArray[np.uint8]
    """uint8 [height, width, channels], C-contiguous, read-only."""
    steps: tuple[str, ...]
    """What was done, in order, in words for people. Empty: the file's own pixels."""


def decode(data: bytes, spec: InputSpec, policy: DecodePolicy, *, max_pixels: int, field: str) -> Decoded:
    """Decode one PNG, JPEG, BMP or WebP file into the shape of `spec`, as `policy` says.

    The size in the file's header is checked before memory for pixels is taken. `field` is the path of the file in the
    request, such as `encoded.images[3]`; errors start with it.

    Raises:
        InvalidRequestError: the file is empty, of another format, damaged, cut short, or larger than `max_pixels`.
    """
    image, steps = files.read(data, fit.enough_pixels(spec, policy), max_pixels=max_pixels, field=field)
    image = colour.convert(image, spec.channels, policy, steps)
    if policy.polarity == "auto" and border.is_light(image):
        image = colour.invert(image)
        steps.append("inverted (dark on light)")
    if image.size != (spec.width, spec.height):
        image = fit.fit(image, spec, policy, steps)
    return Decoded(_pixels(image, spec), tuple(steps))


def _pixels(image: Image.Image, spec: InputSpec) -> npt.NDArray[np.uint8]:
    """The samples of an image that has the model's size and mode: uint8 [height, width, channels]."""
    return np.frombuffer(image.tobytes(), np.uint8).reshape(spec.shape)
