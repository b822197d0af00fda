"""Augmentation moves pixels and invents none."""

from __future__ import annotations

import numpy as np

from convtrain.augmentation import augment
from convtrain.config import Augmentation

IMAGES = np.arange(200 * 6 * 5 * 1, dtype=np.uint32).astype(np.uint8).reshape(200, 6, 5, 1)


def test_nothing_to_do_changes_nothing() -> None:
    """Without settings the images are the same ones."""
    assert augment(IMAGES, Augmentation(), np.random.default_rng(0)) is IMAGES


def test_half_of_the_images_are_mirrored_whole() -> None:
    """Each image is itself or its mirror image."""
    flipped = augment(IMAGES, Augmentation(horizontal_flip=True), np.random.default_rng(0))
    same = (flipped == IMAGES).all(axis=(1, 2, 3))
    mirrored = (flipped == IMAGES[:, :, ::-1]).all(axis=(1, 2, 3))
    assert np.all(same ^ mirrored)
    assert 70 < mirrored.sum() < 130


def test_each_image_is_shifted_within_bounds() -> None:
    """Every result is a window of the image with mirrored edges, and all offsets occur."""
    shifted = augment(IMAGES, Augmentation(shift_pixels=1), np.random.default_rng(0))
    offsets = set()
    for before, after in zip(IMAGES, shifted, strict=True):
        padded = np.pad(before, ((1, 1), (1, 1), (0, 0)), mode="reflect")
        found = [
            (down, right)
            for down in range(3)
            for right in range(3)
            if np.array_equal(padded[down : down + 6, right : right + 5], after)
        ]
        assert found
        offsets.add(found[0])
    assert len(offsets) == 9


def test_the_same_generator_gives_the_same_images() -> None:
    """What an epoch sees depends on its seed alone."""
    config = Augmentation(horizontal_flip=True, shift_pixels=2)
    first, again = (augment(IMAGES, config, np.random.default_rng((1, 2))) for _ in range(2))
    other = augment(IMAGES, config, np.random.default_rng((1, 3)))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
