"""Warps move pixels where they should, and bring nothing in but 0."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from convtrain import warping
from convtrain.augmentation import augment
from convtrain.config import Augmentation
from convtrain.datasets import Dataset

IMAGES = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3), dtype=np.uint8)

ALL = Augmentation(rotation_degrees=15, scale=0.1, shear=0.1, elastic_pixels=0.7, warp_shift_pixels=2)


def places(images: np.ndarray) -> np.ndarray:
    """float32 [N, 2, H·W]: every pixel at its own place."""
    count, height, width, _ = images.shape
    grid = np.stack(np.meshgrid(np.arange(height), np.arange(width), indexing="ij")).reshape(2, -1)
    return np.broadcast_to(grid, (count, *grid.shape)).astype(np.float32)


def test_reading_every_pixel_at_its_place_changes_nothing() -> None:
    """The sampling itself is exact."""
    np.testing.assert_array_equal(warping.sample(IMAGES, places(IMAGES)), IMAGES)


def test_whole_steps_move_whole_pixels_and_bring_in_0() -> None:
    """A shift by (1, -2) is a slice; a place far outside is 0, not the edge."""
    moved = warping.sample(IMAGES, places(IMAGES) + np.array([[1], [-2]], np.float32))
    np.testing.assert_array_equal(moved[:, :-1, 2:], IMAGES[:, 1:, :-2])
    assert not moved[:, -1].any()
    assert not moved[:, :, :2].any()
    assert not warping.sample(IMAGES, places(IMAGES) + 100).any()


def test_between_pixels_values_go_in_straight_lines() -> None:
    """A quarter of the way is a quarter of the difference."""
    line = np.array([0, 100, 200, 40], np.uint8).reshape(1, 1, 4, 1)
    moved = warping.sample(line, places(line) + np.array([[0], [0.25]], np.float32))
    assert moved[0, 0, :, 0].tolist() == [25, 125, 160, 30]


class Always(np.random.Generator):
    """A generator that always draws the highest number."""

    def uniform(self, low: Any = 0.0, high: Any = 1.0, size: Any = None) -> Any:
        """The highest, `size` times."""
        return np.full(size, high)


def test_a_quarter_turn_is_a_quarter_turn() -> None:
    """Angle, centre and direction are right for every channel."""
    turned = warping.warp(IMAGES, Augmentation(rotation_degrees=90), Always(np.random.PCG64()))
    np.testing.assert_array_equal(turned, np.rot90(IMAGES, k=-1, axes=(1, 2)))


def test_scaling_keeps_the_centre() -> None:
    """Half as large: what was the whole image fills the middle, with 0 around it."""
    small = warping.warp(np.full((1, 8, 8, 1), 200, np.uint8), Augmentation(scale=0.999), Always(np.random.PCG64()))
    assert np.argwhere(small[0, :, :, 0] == 200).tolist() == [[r, c] for r in range(2, 6) for c in range(2, 6)]
    assert not small[:, (0, -1)].any()


def test_bends_are_smooth_and_of_the_length_asked_for() -> None:
    """Displacements have a mean square of 1 and neighbours go nearly the same way."""
    field = warping._displacements(2000, 28, 28, np.random.default_rng(0)).reshape(2000, 2, 28, 28)
    np.testing.assert_allclose(np.square(field).mean(axis=0), 1.0, atol=0.15)
    assert np.abs(np.diff(field, axis=2)).mean() < 0.2


def test_digits_stay_digits(mnist_sample: Dataset) -> None:
    """Every image is changed in its own way, within the ink it had; the same generator does the same."""
    images = mnist_sample.train.images
    first, again = (augment(images, ALL, np.random.default_rng(7)) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    assert (first != images).any(axis=(1, 2, 3)).all()
    ink = first.sum(axis=(1, 2, 3)) / images.sum(axis=(1, 2, 3))
    assert 0.6 < ink.min() < ink.max() < 1.6


def test_chunks_do_not_repeat_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is worked on piece by piece is drawn piece by piece, too."""
    monkeypatch.setattr(warping, "CHUNK", 2)
    same = np.repeat(IMAGES[:1], 5, axis=0)
    warped = warping.warp(same, ALL, np.random.default_rng(0))
    assert len(np.unique(warped.reshape(5, -1), axis=0)) == 5
