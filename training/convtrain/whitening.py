"""Filters of the whitening layer, from the training images."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from convserve.arrays import Images
from convtrain.architectures import Architecture, Normalization, Whiten
from convtrain.network import WHITEN_NAME

MAX_PIXELS = 5000 * 32 * 32
"""Pixels that are looked at; enough for a covariance of a few dozen values."""
SMALLEST_VARIANCE = 5e-4
"""Added to every variance, so that directions in which pixels hardly differ are not blown up to noise."""


def initialize(model: Any, architecture: Architecture, images: Images) -> None:
    """Give a model its whitening filters, if the architecture has that layer. `images`: uint8 [N, H, W, C]."""
    match architecture.layers:
        case (Whiten() as layer, *_):
            step = math.ceil(images[..., 0].size / MAX_PIXELS)  # those of a folder lie in the order of their labels
            kernel = filters(images[::step], layer.kernel_size, architecture.normalization)
            model.get_layer(WHITEN_NAME).kernel.assign(kernel)


def filters(images: Images, size: int, normalization: Normalization) -> npt.NDArray[np.float32]:
    """Compute filters whose outputs over the normalised images are uncorrelated and of variance 1, and their negatives.

    Returns:
        float32 [size, size, C, 2·size²·C].
    """
    channels = images.shape[-1]
    mean, std = np.asarray(normalization.mean, np.float32), np.asarray(normalization.std, np.float32)
    normal = (images.astype(np.float32) - mean) / std
    windows = np.lib.stride_tricks.sliding_window_view(normal, (size, size), axis=(1, 2))  # [N, H', W', C, size, size]
    patches = windows.transpose(0, 1, 2, 4, 5, 3).reshape(-1, size * size * channels)
    second_moments = patches.T @ patches / len(patches)
    variances, directions = np.linalg.eigh(second_moments.astype(np.float64))
    kernel = (directions / np.sqrt(variances + SMALLEST_VARIANCE)).reshape(size, size, channels, -1)
    return np.concatenate([kernel, -kernel], axis=-1).astype(np.float32)
