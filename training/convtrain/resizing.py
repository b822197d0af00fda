"""Images made smaller, as training with progressive resizing wants them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from convserve.arrays import Images

CHUNK = 4096


def resize(images: Images, scale: float) -> Images:
    """Scale height and width, to whole pixels, with a triangle filter as wide as it must be to leave no aliases.

    The same images when `scale` is 1.
    """
    if scale == 1.0:
        return images
    _, height, width, _ = images.shape
    smaller = scaled((height, width), scale)
    rows, columns = weights(height, smaller[0]), weights(width, smaller[1])
    return np.concatenate(
        [_resize(images[i : i + CHUNK], rows, columns) for i in range(0, len(images), CHUNK)],
    )


def scaled(size: tuple[int, int], scale: float) -> tuple[int, int]:
    """Height and width of a scaled image, in whole pixels, at least 1."""
    return max(1, round(scale * size[0])), max(1, round(scale * size[1]))


def _resize(images: Images, rows: npt.NDArray[np.float32], columns: npt.NDArray[np.float32]) -> Images:
    count, height, width, channels = images.shape
    x = rows @ images.reshape(count, height, width * channels).astype(np.float32)
    x = x.reshape(count, len(rows), width, channels).transpose(0, 1, 3, 2) @ columns.T  # [n, H', C, W']
    result: Images = np.rint(x).clip(0, 255).astype(np.uint8).transpose(0, 1, 3, 2)
    return np.ascontiguousarray(result)


def weights(length: int, wanted: int) -> npt.NDArray[np.float32]:
    """float32 [wanted, length]: how much each pixel of a line counts for each of a shorter one; rows add up to 1."""
    step = length / wanted
    centers = (np.arange(wanted) + 0.5) * step - 0.5
    distance = np.abs(np.arange(length) - centers[:, None]) / step
    triangle = np.maximum(0, 1 - distance)
    rows: npt.NDArray[np.float32] = (triangle / triangle.sum(axis=1, keepdims=True)).astype(np.float32)
    return rows
