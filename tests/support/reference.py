"""Convolution and pooling in NumPy, written to be checked by eye: what the tests hold the libraries against.

All maps are float64 [height, width, channels]. Padding as TensorFlow has it: `same` pads what the stride leaves over,
the odd pixel below and to the right.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Map: TypeAlias = npt.NDArray[np.float64]
Pair: TypeAlias = tuple[int, int]


def positions(length: int, window: int, stride: int, dilation: int, before: int, after: int) -> int:
    """In how many places a window fits, found by putting it there one step after the other."""
    last = length + before + after - 1
    start = count = 0
    while start + dilation * (window - 1) <= last:
        count += 1
        start += stride
    return count


def padding(length: int, window: int, stride: int, dilation: int, kind: str) -> Pair:
    """Zeros before and after a line of pixels."""
    if kind == "valid":
        return 0, 0
    wanted = -(-length // stride)  # one place for every step that begins inside
    missing = max((wanted - 1) * stride + dilation * (window - 1) + 1 - length, 0)
    return missing // 2, missing - missing // 2


def convolve(
    image: npt.ArrayLike,
    kernel: npt.ArrayLike,
    *,
    strides: Pair = (1, 1),
    dilation: Pair = (1, 1),
    pad: str | int = "valid",
    bias: Any = 0.0,
) -> Map:
    """Cross-correlation, which is what networks call convolution: the kernel is not turned round.

    Args:
        image: [H, W, C].
        kernel: [height, width, C, filters].
        strides: steps down and to the right.
        dilation: distances between the window's pixels.
        pad: `valid`, `same`, or so many zeros on every side.
        bias: [filters].
    """
    image, kernel = np.asarray(image, np.float64), np.asarray(kernel, np.float64)
    sizes = [
        (pad, pad) if isinstance(pad, int) else padding(length, window, stride, spread, pad)
        for length, window, stride, spread in zip(image.shape[:2], kernel.shape[:2], strides, dilation, strict=True)
    ]
    rows, columns = (
        positions(length, window, stride, spread, *around)
        for length, window, stride, spread, around in zip(
            image.shape[:2], kernel.shape[:2], strides, dilation, sizes, strict=True
        )
    )
    padded = np.pad(image, (*sizes, (0, 0)))
    result = np.zeros((rows, columns, kernel.shape[3]))
    for row in range(rows):
        for column in range(columns):
            for down in range(kernel.shape[0]):
                for right in range(kernel.shape[1]):
                    pixel = padded[row * strides[0] + down * dilation[0], column * strides[1] + right * dilation[1]]
                    result[row, column] += pixel @ kernel[down, right]
    return np.asarray(result + bias)


def separable(image: npt.ArrayLike, depthwise: npt.ArrayLike, pointwise: npt.ArrayLike, **options: Any) -> Map:
    """Each channel by itself with [height, width, C, 1], then across channels with [1, 1, C, filters]."""
    image, depthwise = np.asarray(image, np.float64), np.asarray(depthwise, np.float64)
    bias = options.pop("bias", 0.0)
    channels = [
        convolve(image[..., index : index + 1], depthwise[:, :, index : index + 1], **options)
        for index in range(image.shape[2])
    ]
    return convolve(np.concatenate(channels, axis=2), pointwise, bias=bias)


def max_pool(image: npt.ArrayLike, size: Pair, strides: Pair) -> Map:
    """The largest value of each whole window."""
    image = np.asarray(image, np.float64)
    rows, columns = (
        positions(length, window, stride, 1, 0, 0)
        for length, window, stride in zip(image.shape[:2], size, strides, strict=True)
    )
    return np.array(
        [
            [
                image[
                    row * strides[0] : row * strides[0] + size[0], column * strides[1] : column * strides[1] + size[1]
                ].max(axis=(0, 1))
                for column in range(columns)
            ]
            for row in range(rows)
        ]
    )


def plain(rows: Sequence[Sequence[float]]) -> Map:
    """A map of one channel, from rows of numbers."""
    return np.asarray(rows, np.float64)[:, :, None]


def plain_kernel(rows: Sequence[Sequence[float]]) -> npt.NDArray[np.float64]:
    """A kernel from one channel to one, from rows of numbers."""
    return np.asarray(rows, np.float64)[:, :, None, None]
