"""Augmentation moves pixels and invents none."""

from __future__ import annotations

import numpy as np
import pytest

from convtrain.augmentation import alternation, augment, mix
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


def test_a_rectangle_of_another_image_brings_as_much_of_its_label() -> None:
    """Each pixel is of the image or of the one before it; the label tells how many are of which."""
    levels = np.arange(200, dtype=np.uint8)
    images = np.broadcast_to(levels[:, None, None, None], (200, 6, 5, 1))
    mixed, labels = mix(images, np.eye(200, dtype=np.float32), 1.0, np.random.default_rng(0))
    covered = (mixed != images).mean(axis=(1, 2, 3))
    for index, (image, label) in enumerate(zip(mixed, labels, strict=True)):
        assert set(np.unique(image)) <= {levels[index], levels[index - 1]}
        assert label[index - 1] == pytest.approx(covered[index], abs=1e-6)
        assert label[index] == pytest.approx(1 - covered[index], abs=1e-6)
    assert 0.15 < covered.mean() < 0.5
    inside = mixed[:, :, :, 0] != images[:, :, :, 0]
    for one in inside:
        rows, columns = one.any(axis=1), one.any(axis=0)
        np.testing.assert_array_equal(one, rows[:, None] & columns[None, :])


def test_the_other_share_of_the_images_is_not_mixed() -> None:
    """They keep their pixels and their label."""
    labels = np.eye(200, dtype=np.float32)
    mixed, changed = mix(IMAGES, labels, 0.25, np.random.default_rng(0))
    same = (changed == labels).all(axis=1)
    assert 130 < same.sum() < 180
    np.testing.assert_array_equal(mixed[same], IMAGES[same])


def test_the_same_generator_gives_the_same_images() -> None:
    """What an epoch sees depends on its seed alone."""
    config = Augmentation(horizontal_flip=True, shift_pixels=2)
    first, again = (augment(IMAGES, config, np.random.default_rng((1, 2))) for _ in range(2))
    other = augment(IMAGES, config, np.random.default_rng((1, 3)))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_alternating_mirrors_in_turns() -> None:
    """A random half, then the other half, and so on: the same for a run that began anew in between."""
    first, second, third = (alternation(len(IMAGES), seed=3, epoch=epoch) for epoch in (1, 2, 3))
    assert 70 < first.sum() < 130
    np.testing.assert_array_equal(second, ~first)
    np.testing.assert_array_equal(third, first)
    config = Augmentation(horizontal_flip="alternating")
    flipped = augment(IMAGES, config, np.random.default_rng(0), first)
    np.testing.assert_array_equal(flipped[first], IMAGES[first][:, :, ::-1])
    np.testing.assert_array_equal(flipped[~first], IMAGES[~first])


def test_a_whole_square_is_painted_over() -> None:
    """In the mean colour, anywhere within the image; the rest is as it was."""
    images = np.random.default_rng(0).integers(0, 256, (300, 6, 5, 3), dtype=np.uint8)
    cut = augment(images, Augmentation(cutout_pixels=2), np.random.default_rng(0))
    mean = np.rint(images.mean(axis=(0, 1, 2)))
    corners = set()
    for before, after in zip(images, cut, strict=True):
        rows, columns = np.nonzero((before != after).any(axis=2))
        corners.add((rows.min(), columns.min()))
        assert (rows.max() - rows.min(), columns.max() - columns.min()) <= (1, 1)
        np.testing.assert_array_equal(after[rows, columns], np.broadcast_to(mean, (len(rows), 3)))
    assert len(corners) == 5 * 4
    everything = augment(images, Augmentation(cutout_pixels=9), np.random.default_rng(0))
    np.testing.assert_array_equal(everything, np.broadcast_to(mean, images.shape))
