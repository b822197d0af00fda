"""The preset for images of one's own."""

from __future__ import annotations

from convserve.manifest import DecodePolicy, InputSpec
from convtrain.architectures import Architecture, Conv, Dropout, GlobalPool, Normalization, Pool
from convtrain.config import Augmentation, Schedule, TrainingConfig
from convtrain.presets.preset import Preset

IMAGES = Preset(
    name="images",
    summary="any folder of labelled images, brought to 64×64 in colour",
    model="images",
    dataset="folder",
    input=InputSpec(height=64, width=64, channels=3),
    decode=DecodePolicy(fit="crop"),
    architecture=Architecture(
        layers=(
            Conv(filters=32, batch_norm=True),
            Pool(),
            Conv(filters=64, batch_norm=True),
            Pool(),
            Conv(filters=128, batch_norm=True),
            Pool(),
            Conv(filters=128, batch_norm=True),
            GlobalPool(),
            Dropout(rate=0.2),
        ),
        normalization=Normalization(mean=128.0, std=64.0),
    ),
    # No mirrored images: of letters, signs and gloves the mirror image is another thing.
    training=TrainingConfig(
        epochs=30,
        batch_size=32,
        validation_fraction=0.15,
        schedule=Schedule(warmup=0.1, final=0.0),
        augmentation=Augmentation(shift_pixels=4),
        early_stopping_patience=10,
        batch_norm_momentum=0.9,  # epochs of small folders have few steps
    ),
)

ALL = (IMAGES,)
