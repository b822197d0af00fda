"""Random changes to training images."""

from __future__ import annotations

import numpy as np

from convserve.arrays import Images
from convtrain.config import Augmentation


def augment(images: Images, config: Augmentation, rng: np.random.Generator) -> Images:
    """Change the images as `config` says. Returns new images of the same shape; the same ones when nothing is to do."""
    if config.horizontal_flip:
        images = np.where(rng.random((len(images), 1, 1, 1)) < 0.5, images[:, :, ::-1], images)
    if config.shift_pixels:
        images = _shift(images, config.shift_pixels, rng)
    return images


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
