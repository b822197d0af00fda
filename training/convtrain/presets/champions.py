"""The networks and settings of the presets `mnist` and `cifar10`, the most accurate for their size, and `cifar10-96`.

All follow the recipe of Keller Jordan, "94% on CIFAR-10 in 3.29 Seconds on a Single GPU" (arXiv 2404.00498), and its
later variant with the optimizer Muon (https://kellerjordan.github.io/posts/muon/): few wide groups of convolutions with
the pooling inside, batch normalisation, a global maximum pool, identity initialization, label smoothing, alternating
flip, large batches and a rate that falls to 0. Ours are the third convolution with a residual, the growing image size,
Adam for what is not a kernel, and all figures in the settings, chosen on a validation split for two CPU cores; those of
`cifar10-96` are taken from `cifar10`.
"""

from __future__ import annotations

import msgspec

from convtrain.architectures import Architecture, Conv, GlobalPool, Layer, Normalization, Residual, Whiten
from convtrain.config import Augmentation, Loss, Muon, Schedule, Shrunk, TrainingConfig
from convtrain.presets import cifar10, mnist
from convtrain.presets.preset import Preset


def _group(filters: int, *, pool: int = 2, residuals: int = 1) -> tuple[Layer, ...]:
    """A convolution after which the map is pooled, and pairs of them that are added to what they got."""
    pair = Residual(
        layers=(
            Conv(filters=filters, batch_norm=True, activation="silu"),
            Conv(filters=filters, batch_norm=True, activation="linear"),
        ),
        activation="silu",
    )
    return Conv(filters=filters, pool=pool, batch_norm=True, activation="silu"), *(pair,) * residuals


MNIST = Preset(
    name="mnist",
    summary="the most accurate for digits, and the one to serve",
    model="mnist",
    dataset="mnist",
    input=mnist.INPUT,
    decode=mnist.DECODE,
    architecture=Architecture(
        layers=(
            Conv(filters=16, padding="valid", batch_norm=True, activation="silu"),
            *_group(32),
            *_group(64),
            *_group(128),
            GlobalPool(kind="max"),
        ),
        normalization=Normalization(mean=33.3, std=78.6),  # of the training images
        initialization="identity",
    ),
    training=TrainingConfig(
        epochs=16,
        batch_size=250,
        validation_fraction=0.1,
        optimizer=Muon(),
        schedule=Schedule(final=0.0),
        loss=Loss(labels="one-hot", label_smoothing=0.1),
        augmentation=Augmentation(
            rotation_degrees=15, scale=0.15, shear=0.15, elastic_pixels=0.7, warp_shift_pixels=2.5
        ),
        early_stopping_patience=None,
        precision="mixed_bfloat16",
        weight_averaging=0.995,
        batch_norm_momentum=0.9,
    ),
)

CIFAR10 = Preset(
    name="cifar10",
    summary="the most accurate for CIFAR-10, and the one to serve",
    model="cifar10",
    dataset="cifar10",
    input=cifar10.INPUT,
    architecture=Architecture(
        layers=(
            Whiten(activation="silu"),
            *_group(64),
            *_group(192),
            *_group(256),
            GlobalPool(kind="max"),
        ),
        normalization=cifar10.NORMALIZATION,
        initialization="identity",
    ),
    training=TrainingConfig(
        epochs=60,
        batch_size=500,
        validation_fraction=0.04,
        optimizer=Muon(),
        schedule=Schedule(final=0.0),
        loss=Loss(labels="one-hot", label_smoothing=0.1),
        augmentation=Augmentation(horizontal_flip="alternating", shift_pixels=4, cutout_pixels=8, cutmix=0.5),
        early_stopping_patience=None,
        precision="mixed_bfloat16",
        progressive_resizing=(Shrunk(until=0.25, scale=0.75), Shrunk(until=0.5, scale=0.875)),
        weight_averaging=0.98,
        batch_norm_momentum=0.9,
    ),
)

CIFAR10_96 = Preset(
    name="cifar10-96",
    summary="CIFAR-10 with five times the parameters, to be trained on a GPU; not measured yet",
    model="cifar10-96",
    dataset="cifar10",
    input=cifar10.INPUT,
    architecture=msgspec.structs.replace(
        CIFAR10.architecture,
        layers=(
            Whiten(activation="silu"),
            *_group(128),
            *_group(256, pool=1),
            *_group(512, residuals=2),
            GlobalPool(kind="max"),
        ),
    ),
    training=msgspec.structs.replace(CIFAR10.training, epochs=60, progressive_resizing=()),
)

ALL = (MNIST, CIFAR10, CIFAR10_96)
