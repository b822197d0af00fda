"""Random changes to training images."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from convserve.arrays import Images
from convtrain import warping
from convtrain.config import Augmentation


def augment(
    images: Images, config: Augmentation, rng: np.random.Generator, mirrored: npt.NDArray[np.bool_] | None = None
) -> Images:
    """Change the images as `config` says. Returns new images of the same shape; the same ones when nothing is to do.

    Args:
        images: uint8 [N, H, W, C].
        config: what to do.
        rng: where chance comes from.
        mirrored: bool [N], which images to mirror with `horizontal_flip = "alternating"`.
    """
    if warping.is_needed(config):
        images = warping.warp(images, config, rng)
    if config.horizontal_flip:
        if mirrored is None:
            mirrored = rng.random(len(images)) < 0.5
        images = np.where(mirrored[:, None, None, None], images[:, :, ::-1], images)
    if config.shift_pixels:
        images = _shift(images, config.shift_pixels, rng)
    if config.cutout_pixels:
        images = _cut_out(images, config.cutout_pixels, rng)
    return images


def alternation(count: int, seed: int, epoch: int) -> npt.NDArray[np.bool_]:
    """Which images of the split to mirror in this epoch, bool [N]: a random half, the others in the next one."""
    first: npt.NDArray[np.bool_] = np.random.default_rng((seed, 0)).random(count) < 0.5  # epochs count from 1
    return first ^ bool(epoch % 2)


def _shift(images: Images, most: int, rng: np.random.Generator) -> Images:
    count, height, width, _ = images.shape
    edge = ((0, 0), (most, most), (most, most), (0, 0))
    padded = np.pad(images, edge, mode="reflect")
    offsets = rng.integers(0, 2 * most + 1, size=(count, 2))
    moved = np.empty_like(images)
    for down in range(2 * most + 1):  # all images with the same offset at once
        for right in range(2 * most + 1):
            chosen = (offsets == (down, right)).all(axis=1)
            moved[chosen] = padded[chosen, down : down + height, right : right + width]
    return moved


def _cut_out(images: Images, side: int, rng: np.random.Generator) -> Images:
    """Paint a square over each image, whole and within it (DeVries and Taylor, 2017)."""
    count, height, width, _ = images.shape
    top = rng.integers(0, max(height - side, 0) + 1, size=(count, 1))
    left = rng.integers(0, max(width - side, 0) + 1, size=(count, 1))
    rows, columns = np.arange(height), np.arange(width)
    inside_rows = (rows >= top) & (rows < top + side)  # [N, H]
    inside_columns = (columns >= left) & (columns < left + side)
    square = inside_rows[:, :, None] & inside_columns[:, None, :]
    color = np.rint(images.mean(axis=(0, 1, 2))).astype(np.uint8)
    return np.where(square[..., None], color, images)
