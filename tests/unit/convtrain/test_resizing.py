"""Smaller images are what other programs make of them, too."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from convtrain.datasets import Dataset
from convtrain.resizing import resize, weights


@pytest.mark.parametrize(("length", "wanted"), [(32, 24), (32, 28), (28, 7), (9, 9), (5, 2)])
def test_every_pixel_of_a_line_counts_as_much(length: int, wanted: int) -> None:
    """Each result is a mean, and no part of the line is left out."""
    found = weights(length, wanted)
    np.testing.assert_allclose(found.sum(axis=1), 1.0, rtol=1e-6)
    assert (found.sum(axis=0) > 0).all()
    np.testing.assert_allclose(found, found[::-1, ::-1], atol=1e-6)


@pytest.mark.parametrize("scale", [0.75, 0.5, 0.3])
def test_photographs_agree_with_pillow(cifar10_sample: Dataset, scale: float) -> None:
    """Its bilinear filter is the same triangle; rounding twice makes it differ by one at most."""
    images = cifar10_sample.train.images[:20]
    side = round(32 * scale)
    found = resize(images, scale)
    assert found.shape == (20, side, side, 3)
    assert found.dtype == np.uint8
    for one, pixels in zip(found, images, strict=True):
        expected = np.asarray(Image.fromarray(pixels).resize((side, side), Image.Resampling.BILINEAR))
        assert np.abs(one.astype(int) - expected).max() <= 1


def test_a_scale_of_one_is_no_work(mnist_sample: Dataset) -> None:
    """The same images come back."""
    assert resize(mnist_sample.train.images, 1.0) is mnist_sample.train.images
