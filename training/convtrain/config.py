"""Settings of a training: frozen, strict, and part of every manifest."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

import msgspec

PositiveInt = Annotated[int, msgspec.Meta(ge=1)]
PositiveFloat = Annotated[float, msgspec.Meta(gt=0)]


class _Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Frozen, and strict about unknown keys."""


class Adam(_Config, frozen=True, kw_only=True, tag="adam", tag_field="name"):
    """Adam (Kingma and Ba, 2015) with Keras' defaults for the moments."""

    learning_rate: PositiveFloat = 1e-3
    """Step size."""


class Sgd(_Config, frozen=True, kw_only=True, tag="sgd", tag_field="name"):
    """Stochastic gradient descent with Nesterov momentum."""

    learning_rate: PositiveFloat = 1e-2
    """Step size."""
    momentum: Annotated[float, msgspec.Meta(ge=0, lt=1)] = 0.9
    """Share of the last step that goes into the next."""


Optimizer: TypeAlias = Adam | Sgd


class Schedule(_Config, frozen=True, kw_only=True):
    """How the learning rate changes over training: up in a straight line, then down in a straight line."""

    warmup: Annotated[float, msgspec.Meta(ge=0, lt=1)] = 0.0
    """Share of all steps in which the rate rises from 0 to the optimizer's."""
    final: Annotated[float, msgspec.Meta(ge=0, le=1)] = 1.0
    """What is left of the rate in the last step; 1 leaves it constant."""

    def factor(self, step: int, steps: int) -> float:
        """What the optimizer's learning rate is multiplied by in `step`, counted from 0, of `steps`."""
        rising = self.warmup * steps
        if step < rising:
            return (step + 1) / (rising + 1)
        falling = max(steps - 1 - rising, 1)
        return 1 - (1 - self.final) * min((step - rising) / falling, 1.0)


class Loss(_Config, frozen=True, kw_only=True):
    """Cross-entropy, in the forms in which people write it."""

    labels: Literal["sparse", "one-hot"] = "sparse"
    """`sparse`: labels are indices. `one-hot`: they are vectors, as label smoothing needs them."""
    computed_from: Literal["logits", "probabilities"] = "logits"
    """`logits` keeps more precision; `probabilities` is the textbook's softmax output."""
    label_smoothing: Annotated[float, msgspec.Meta(ge=0, lt=1)] = 0.0
    """Share of the target that is spread evenly over all classes; above 0 only with `one-hot`."""

    def __post_init__(self) -> None:
        """Check what a type cannot say."""
        if self.label_smoothing and self.labels != "one-hot":
            raise ValueError(f"label_smoothing is {self.label_smoothing}; it needs labels = 'one-hot'")


class Augmentation(_Config, frozen=True, kw_only=True):
    """Random changes to the training images, made anew in every epoch."""

    horizontal_flip: bool = False
    """Mirror every second image, chosen at random."""
    shift_pixels: Annotated[int, msgspec.Meta(ge=0)] = 0
    """Move each image by up to so many pixels in both directions; the edge is mirrored into the gap."""


class TrainingConfig(_Config, frozen=True, kw_only=True):
    """How a network is trained."""

    epochs: PositiveInt
    """Times to go through the training images, at most."""
    batch_size: PositiveInt
    """Images for each step of the optimizer."""
    validation_fraction: Annotated[float, msgspec.Meta(ge=0, lt=1)]
    """Share of the training split that is set aside to choose the best epoch by."""
    seed: Annotated[int, msgspec.Meta(ge=0, lt=2**31)] = 1
    """Seed of the first weights, the order of images, augmentation, dropout and the validation split."""
    optimizer: Optimizer = Adam()
    """How weights are changed."""
    schedule: Schedule = Schedule()
    """How fast, in the course of training."""
    loss: Loss = Loss()
    """What is made small."""
    augmentation: Augmentation = Augmentation()
    """What is done to the training images."""
    early_stopping_patience: PositiveInt | None = 3
    """Stop after so many epochs without a better validation accuracy; None never does. Either way the weights of the
    best epoch are kept, or the last ones where there is no validation split."""
