"""Statistics of the training images are what NumPy says of all of them at once."""

from __future__ import annotations

import numpy as np
import pytest

from convtrain import statistics
from convtrain.datasets import Dataset, Split


def test_statistics_are_those_of_all_pixels(cifar10_sample: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """Going through in pieces makes no difference."""
    monkeypatch.setattr(statistics, "CHUNK", 37)
    train = cifar10_sample.train
    found = statistics.measure(train, 10)
    assert found.channel_mean == pytest.approx(train.images.mean(axis=(0, 1, 2)), rel=1e-5)
    assert found.channel_std == pytest.approx(train.images.std(axis=(0, 1, 2)), rel=1e-5)
    assert found.class_share == [0.1] * 10
    means = train.images.mean(axis=(1, 2, 3))
    assert found.image_mean_histogram == pytest.approx(np.histogram(means, 32, (0, 255))[0] / 400)


def test_extreme_images_are_counted() -> None:
    """All black, all white and the strongest contrast each fall into a bin."""
    images = np.zeros((3, 4, 4, 1), np.uint8)
    images[1] = 255
    images[2, :2] = 255
    found = statistics.measure(Split(images, np.array([0, 1, 1])), 3)
    assert sum(found.image_mean_histogram) == pytest.approx(1)
    assert sum(found.image_std_histogram) == pytest.approx(1)
    assert (found.image_mean_histogram[0], found.image_mean_histogram[-1]) == pytest.approx((1 / 3, 1 / 3))
    assert found.class_share == pytest.approx([1 / 3, 2 / 3, 0])
