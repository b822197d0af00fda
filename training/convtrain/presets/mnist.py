"""Presets for MNIST's digits."""

from __future__ import annotations

from convserve.manifest import DecodePolicy, InputSpec
from convtrain.architectures import Architecture, Conv, Dense, Flatten, GlobalPool, Pool, SeparableConv
from convtrain.config import Loss, Schedule, TrainingConfig
from convtrain.presets.preset import Preset

INPUT = InputSpec(height=28, width=28, channels=1)
DECODE = DecodePolicy(fit="glyph", polarity="auto")

SIMPLE = Preset(
    name="mnist-simple",
    summary="two convolutions with pooling; one-hot labels and cross-entropy from softmax",
    model="mnist",
    dataset="mnist",
    input=INPUT,
    decode=DECODE,
    architecture=Architecture(
        layers=(
            Conv(filters=32, padding="valid"),
            Pool(),
            Conv(filters=64, padding="valid"),
            Pool(),
            Flatten(),
            Dense(units=128),
        )
    ),
    training=TrainingConfig(
        epochs=10,
        batch_size=32,
        validation_fraction=0.2,
        loss=Loss(labels="one-hot", computed_from="probabilities"),
        early_stopping_patience=None,  # ten epochs, as the tutorials have it
    ),
)

DEEP = Preset(
    name="mnist-deep",
    summary="two convolutions before one pooling; above 98 % in 5 epochs",
    model="mnist",
    dataset="mnist",
    input=INPUT,
    decode=DECODE,
    architecture=Architecture(
        layers=(
            Conv(filters=32, padding="valid"),
            Conv(filters=64, padding="valid"),
            Pool(),
            Flatten(),
            Dense(units=128),
        )
    ),
    training=TrainingConfig(epochs=5, batch_size=64, validation_fraction=0.1, schedule=Schedule(final=0.0)),
)

BATCHNORM = Preset(
    name="mnist-batchnorm",
    summary="mnist-deep with batch normalisation between convolution and ReLU, and `same` padding",
    model="mnist",
    dataset="mnist",
    input=INPUT,
    decode=DECODE,
    architecture=Architecture(
        layers=(
            Conv(filters=32, batch_norm=True),
            Conv(filters=64, batch_norm=True),
            Pool(),
            Flatten(),
            Dense(units=128),
        )
    ),
    training=TrainingConfig(epochs=5, batch_size=64, validation_fraction=0.1, schedule=Schedule(final=0.0)),
)

SEPARABLE = Preset(
    name="mnist-separable",
    summary="separable convolutions and global pooling: under 4,000 parameters",
    model="mnist",
    dataset="mnist",
    input=INPUT,
    decode=DECODE,
    architecture=Architecture(
        layers=(
            Conv(filters=16),
            Pool(),
            SeparableConv(filters=32),
            Pool(),
            SeparableConv(filters=64),
            GlobalPool(),
        )
    ),
    training=TrainingConfig(epochs=10, batch_size=64, validation_fraction=0.1, schedule=Schedule(final=0.0)),
)

ALL = (SIMPLE, DEEP, BATCHNORM, SEPARABLE)
