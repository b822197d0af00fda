"""What the training images look like as a whole, so that a server can tell when others come."""

from __future__ import annotations

import numpy as np

from convserve.manifest import InputStatistics
from convtrain.datasets import Split

BINS = 32
CHUNK = 4096


def measure(train: Split, classes: int) -> InputStatistics:
    """Measure pixel statistics (samples of 0..255) and the share of each class."""
    channels = train.images.shape[-1]
    total, squares = np.zeros(channels), np.zeros(channels)
    means, deviations = np.empty(len(train)), np.empty(len(train))
    for start in range(0, len(train), CHUNK):
        images = train.images[start : start + CHUNK].astype(np.float32)  # [n, H, W, C]
        total += images.sum(axis=(0, 1, 2), dtype=np.float64)
        squares += np.square(images).sum(axis=(0, 1, 2), dtype=np.float64)
        means[start : start + CHUNK] = images.mean(axis=(1, 2, 3))
        deviations[start : start + CHUNK] = images.std(axis=(1, 2, 3))
    pixels = train.images.size // channels
    mean = total / pixels
    return InputStatistics(
        channel_mean=mean.tolist(),
        channel_std=np.sqrt(squares / pixels - mean**2).tolist(),
        image_mean_histogram=(np.histogram(means.clip(0, 255), BINS, (0, 255))[0] / len(train)).tolist(),
        image_std_histogram=(np.histogram(deviations, BINS, (0, 128))[0] / len(train)).tolist(),
        class_share=(np.bincount(train.labels, minlength=classes) / len(train)).tolist(),
    )
