"""Presets for CIFAR-10's photographs."""

from __future__ import annotations

from convserve.manifest import InputSpec
from convtrain.architectures import Architecture, Conv, Dense, Dropout, Flatten, GlobalPool, Layer, Normalization, Pool
from convtrain.config import Augmentation, Schedule, TrainingConfig
from convtrain.presets.preset import Preset

INPUT = InputSpec(height=32, width=32, channels=3)
# Mean and standard deviation of the training images, channel by channel.
NORMALIZATION = Normalization(mean=(125.3, 123.0, 113.9), std=(63.0, 62.1, 66.7))


def _tutorial(name: str, summary: str, *layers: Layer, epochs: int = 10) -> Preset:
    """One of the small networks, which differ in their layers and are trained alike."""
    return Preset(
        name=name,
        summary=summary,
        model="cifar10",
        dataset="cifar10",
        input=INPUT,
        architecture=Architecture(layers=layers, normalization=NORMALIZATION),
        training=TrainingConfig(
            epochs=epochs,
            batch_size=64,
            validation_fraction=0.1,
            schedule=Schedule(final=0.0),
            augmentation=Augmentation(horizontal_flip=True),
        ),
    )


SIMPLE = _tutorial(
    "cifar10-simple",
    "three convolutions with pooling, trained on logits, with mirrored images",
    Conv(filters=32),
    Pool(),
    Conv(filters=64),
    Pool(),
    Conv(filters=128),
    Pool(),
    Flatten(),
    Dense(units=128),
)

STRIDED = _tutorial(
    "cifar10-strided",
    "cifar10-simple with strides of 2 in place of pooling: a quarter of the work",
    Conv(filters=32, strides=2),
    Conv(filters=64, strides=2),
    Conv(filters=128, strides=2),
    Flatten(),
    Dense(units=128),
)

REGULARIZED = _tutorial(
    "cifar10-regularized",
    "cifar10-simple with L2 of 0.001 and dropout after pooling and before the logits",
    Conv(filters=32, l2=0.001),
    Pool(),
    Dropout(rate=0.2),
    Conv(filters=64, l2=0.001),
    Pool(),
    Dropout(rate=0.2),
    Conv(filters=128, l2=0.001),
    Pool(),
    Dropout(rate=0.2),
    Flatten(),
    Dense(units=128, l2=0.001),
    Dropout(rate=0.5),
    epochs=20,
)

DILATED = _tutorial(
    "cifar10-dilated",
    "every second convolution dilated, to see further without more weights",
    Conv(filters=32),
    Conv(filters=32, dilation_rate=2),
    Pool(),
    Conv(filters=64),
    Conv(filters=64, dilation_rate=2),
    Pool(),
    Conv(filters=128),
    GlobalPool(),
    Dense(units=128),
)

ALL = (SIMPLE, STRIDED, REGULARIZED, DILATED)
