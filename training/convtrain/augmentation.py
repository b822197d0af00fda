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


def mix(
    images: Images, labels: npt.NDArray[np.float32], share: float, rng: np.random.Generator
) -> tuple[Images, npt.NDArray[np.float32]]:
    """Paste a rectangle of another image into a share of the images, and mix the labels (CutMix; Yun et al., 2019).

    The rectangle has the image's proportions, a size by chance between nothing and all of it, and is cut off at the
    edges; the labels are mixed by the pixels that it really covers.

    Args:
        images: uint8 [N, H, W, C], in random order: each gets its rectangle from the one before it.
        labels: float32 [N, classes], rows sum to 1.
        share: of the images, 0 to 1.
        rng: where chance comes from.
    """
    count, height, width, _ = images.shape
    part = np.sqrt(rng.random(count)) * (rng.random(count) < share)  # of each side
    top, bottom = _span(height, part, rng)
    left, right = _span(width, part, rng)
    rows, columns = np.arange(height), np.arange(width)
    inside_rows = (rows >= top[:, None]) & (rows < bottom[:, None])  # [N, H]
    inside_columns = (columns >= left[:, None]) & (columns < right[:, None])
    rectangle = inside_rows[:, :, None] & inside_columns[:, None, :]
    mixed = np.where(rectangle[..., None], np.roll(images, 1, axis=0), images)
    covered = rectangle.mean(axis=(1, 2), dtype=np.float32)[:, None]
    return mixed, labels * (1 - covered) + np.roll(labels, 1, axis=0) * covered


def _span(
    size: int, part: npt.NDArray[np.float64], rng: np.random.Generator
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Begin and end, exclusive, of spans that are such a part of `size`, around points by chance."""
    middle = rng.random(len(part)) * size
    begin = np.rint(np.clip(middle - part * size / 2, 0, size)).astype(np.int64)
    end = np.rint(np.clip(middle + part * size / 2, 0, size)).astype(np.int64)
    return begin, end


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
