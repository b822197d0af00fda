"""Complete, named trainings: data, network, settings and the name to serve under."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from convserve.manifest import DecodePolicy, InputSpec
from convtrain.architectures import Architecture, Conv, Dense, Flatten, Normalization, Pool
from convtrain.config import Augmentation, Loss, Schedule, TrainingConfig
from convtrain.datasets import DatasetKind
from convtrain.errors import PresetError


class Preset(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Everything that `convtrain run` needs to know, but for where the data lies."""

    name: str
    """Name on the command line."""
    summary: str
    """One line for people."""
    model: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")]
    """Name of the model in the repository."""
    dataset: DatasetKind
    """The data it is trained on."""
    input: InputSpec
    """Shape of one image."""
    decode: DecodePolicy = DecodePolicy()
    """How image files become input."""
    architecture: Architecture
    """The network."""
    training: TrainingConfig
    """How it is trained."""

    def override(self, **values: Any) -> Preset:
        """Change fields of the preset, of its training, or the optimizer's learning rate. None leaves a field as it is.

        Raises:
            PresetError: a value is out of range.
        """
        fields = msgspec.to_builtins(self)
        for name, value in values.items():
            if value is None:
                continue
            if name == "learning_rate":
                fields["training"]["optimizer"][name] = value
            elif name in TrainingConfig.__struct_fields__:
                fields["training"][name] = value
            else:
                fields[name] = msgspec.to_builtins(value)
        try:
            return msgspec.convert(fields, Preset)
        except msgspec.ValidationError as error:
            raise PresetError(f"preset {self.name}: {error}") from error


_MNIST_INPUT = InputSpec(height=28, width=28, channels=1)
_MNIST_DECODE = DecodePolicy(fit="glyph", polarity="auto")
_CIFAR10_INPUT = InputSpec(height=32, width=32, channels=3)
# Mean and standard deviation of the training images, channel by channel.
_CIFAR10_NORMALIZATION = Normalization(mean=(125.3, 123.0, 113.9), std=(63.0, 62.1, 66.7))

PRESETS = {
    preset.name: preset
    for preset in (
        Preset(
            name="mnist-simple",
            summary="two convolutions with pooling; one-hot labels and cross-entropy from softmax",
            model="mnist",
            dataset="mnist",
            input=_MNIST_INPUT,
            decode=_MNIST_DECODE,
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
            ),
        ),
        Preset(
            name="mnist-deep",
            summary="two convolutions before one pooling; above 98 % in 5 epochs",
            model="mnist",
            dataset="mnist",
            input=_MNIST_INPUT,
            decode=_MNIST_DECODE,
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
        ),
        Preset(
            name="cifar10-simple",
            summary="three convolutions with pooling, trained on logits, with mirrored images",
            model="cifar10",
            dataset="cifar10",
            input=_CIFAR10_INPUT,
            architecture=Architecture(
                layers=(
                    Conv(filters=32),
                    Pool(),
                    Conv(filters=64),
                    Pool(),
                    Conv(filters=128),
                    Pool(),
                    Flatten(),
                    Dense(units=128),
                ),
                normalization=_CIFAR10_NORMALIZATION,
            ),
            training=TrainingConfig(
                epochs=10,
                batch_size=64,
                validation_fraction=0.1,
                schedule=Schedule(final=0.0),
                augmentation=Augmentation(horizontal_flip=True),
            ),
        ),
    )
}


def find(name: str) -> Preset:
    """Find a preset by its name.

    Raises:
        PresetError: there is none of that name.
    """
    try:
        return PRESETS[name]
    except KeyError:
        raise PresetError(f"there is no preset {name!r}; there are {', '.join(PRESETS)}") from None
