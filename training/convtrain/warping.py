"""Random turns, stretches, slants and bends of training images, by one bilinear sampling."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from convserve.arrays import Images
from convtrain.config import Augmentation

CHUNK = 2048
KNOTS = 4
"""Displacements are drawn on a grid of so many points in each direction and are smooth between them."""

Floats = npt.NDArray[np.float32]


def is_needed(config: Augmentation) -> bool:
    """Whether any warp is on."""
    return any((config.rotation_degrees, config.scale, config.shear, config.elastic_pixels, config.warp_shift_pixels))


def warp(images: Images, config: Augmentation, rng: np.random.Generator) -> Images:
    """Warp each image in its own way. Returns new images of the same shape; what was outside is 0."""
    return np.concatenate([_warp(images[i : i + CHUNK], config, rng) for i in range(0, len(images), CHUNK)])


def _warp(images: Images, config: Augmentation, rng: np.random.Generator) -> Images:
    count, height, width, _ = images.shape
    down, right = np.meshgrid(np.arange(height), np.arange(width), indexing="ij")
    places = np.stack([down, right]).reshape(2, -1).astype(np.float32)  # [2, H·W]
    center = np.array([(height - 1) / 2, (width - 1) / 2], np.float32)[:, None]
    shift = rng.uniform(-config.warp_shift_pixels, config.warp_shift_pixels, (count, 2, 1)).astype(np.float32)
    sources = _matrices(count, config, rng) @ (places - center) + center + shift  # [n, 2, H·W]
    if config.elastic_pixels:
        sources += config.elastic_pixels * _displacements(count, height, width, rng)
    return sample(images, sources)


def sample(images: Images, sources: Floats) -> Images:
    """Read every pixel of the result at its own place of the image, between pixels in straight lines.

    Args:
        images: uint8 [N, H, W, C].
        sources: float32 [N, 2, H·W], row and column in the image for each pixel of the result.
    """
    count, height, width, channels = images.shape
    # A border of 0 all around; whatever lies farther out is read from it.
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0))).reshape(-1, channels)
    row = np.clip(sources[:, 0] + 1, 0, height + 0.999)
    column = np.clip(sources[:, 1] + 1, 0, width + 0.999)
    top, left = row.astype(np.int32), column.astype(np.int32)
    below, beside = (row - top)[..., None], (column - left)[..., None]
    stride = width + 2
    first = np.arange(count, dtype=np.int32)[:, None] * ((height + 2) * stride) + top * stride + left

    def read(offset: int) -> Floats:
        values: Floats = padded.take(first + offset, axis=0).astype(np.float32)
        return values

    upper = read(0) * (1 - beside) + read(1) * beside
    lower = read(stride) * (1 - beside) + read(stride + 1) * beside
    result = upper * (1 - below) + lower * below
    warped: Images = (result + 0.5).astype(np.uint8).reshape(images.shape)
    return warped


def _matrices(count: int, config: Augmentation, rng: np.random.Generator) -> Floats:
    """float32 [n, 2, 2]: from a place in the result to one in the image, both seen from the centre."""
    angle = np.deg2rad(rng.uniform(-config.rotation_degrees, config.rotation_degrees, count))
    most = np.log1p(config.scale)
    stretch = np.exp(rng.uniform(-most, most, (count, 2)))
    slant = rng.uniform(-config.shear, config.shear, count)
    turn = np.stack([np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle)], axis=1).reshape(-1, 2, 2)
    zero = np.zeros(count)
    shape = np.stack([stretch[:, 0], zero, slant, stretch[:, 1]], axis=1).reshape(-1, 2, 2)
    matrices: Floats = (turn @ shape).astype(np.float32)
    return matrices


def _displacements(count: int, height: int, width: int, rng: np.random.Generator) -> Floats:
    """float32 [n, 2, H·W] of typical length 1, smooth, independent in both directions."""
    basis = np.kron(_bumps(height), _bumps(width))  # [H·W, knots²]
    basis /= np.sqrt(np.square(basis).sum(axis=1, keepdims=True))
    return rng.standard_normal((count, 2, KNOTS**2), np.float32) @ basis.astype(np.float32).T


def _bumps(length: int) -> npt.NDArray[np.float64]:
    """float64 [length, knots]: how much each knot weighs at each place, a bell curve around it."""
    knots = np.linspace(0, length - 1, KNOTS)
    width = length / (KNOTS - 1)
    return np.exp(-0.5 * ((np.arange(length)[:, None] - knots) / (0.6 * width)) ** 2)
