"""What the outermost pixels tell: the colour of the ground, and whether the image is dark on light."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt
    from PIL import Image

_MIDDLE = 128
"""Grey values from here on are light."""


def colour(image: Image.Image) -> tuple[int, ...]:
    """Median of the outermost pixels, channel by channel."""
    return tuple(int(value) for value in np.median(_edges(image), axis=0))


def is_light(image: Image.Image) -> bool:
    """Whether most of the outermost samples are light: dark strokes on light paper."""
    edges = _edges(image)
    return 2 * int(np.count_nonzero(edges >= _MIDDLE)) > edges.size


def _edges(image: Image.Image) -> npt.NDArray[np.uint8]:
    """Samples of the first and last row and column: uint8 [pixels, channels]; the corners count twice."""
    width, height = image.size
    strips = ((0, 0, width, 1), (0, height - 1, width, height), (0, 0, 1, height), (width - 1, 0, width, height))
    samples = b"".join([image.crop(strip).tobytes() for strip in strips])
    return np.frombuffer(samples, np.uint8).reshape(-1, len(image.getbands()))
