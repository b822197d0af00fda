"""Settings of a training: frozen, strict, and part of every manifest."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

import msgspec

from convtrain.architectures import LARGEST, LARGEST_WHOLE, PositiveInt

PositiveFloat = Annotated[float, msgspec.Meta(gt=0, le=LARGEST)]
Pixels = Annotated[float, msgspec.Meta(ge=0, le=LARGEST)]
WholePixels = Annotated[int, msgspec.Meta(ge=0, le=LARGEST_WHOLE)]


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


class Muon(_Config, frozen=True, kw_only=True, tag="muon", tag_field="name"):
    """Muon (Jordan et al., 2024) for the kernels of convolutions, Adam for everything else.

    A kernel's step is its momentum with all singular values brought near 1, so that no direction is neglected; after
    each step the kernel is scaled to a norm of sqrt(filters), which is meant for convolutions with batch normalisation.
    """

    learning_rate: PositiveFloat = 0.06
    """Size of a kernel's step, relative to the kernel."""
    momentum: Annotated[float, msgspec.Meta(ge=0, lt=1)] = 0.6
    """Share of the last step that goes into the next."""
    adam_learning_rate: PositiveFloat = 5e-3
    """Step size of Adam for biases, batch normalisation and dense layers; follows the same schedule."""


Optimizer: TypeAlias = Adam | Sgd | Muon


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
    """Random changes to the training images, made anew in every epoch and in the order of the fields."""

    rotation_degrees: Annotated[float, msgspec.Meta(ge=0, le=180)] = 0.0
    """Turn each image by up to so much in both directions."""
    scale: Annotated[float, msgspec.Meta(ge=0, lt=1)] = 0.0
    """Stretch or shrink each image by up to this share, in height and width independently."""
    shear: Annotated[float, msgspec.Meta(ge=0, lt=1)] = 0.0
    """Slant each image by up to so many pixels for each pixel of height."""
    elastic_pixels: Pixels = 0.0
    """Bend each image: typical length of a smooth random displacement, in pixels."""
    warp_shift_pixels: Pixels = 0.0
    """Move each image by up to so much, also by parts of a pixel; what comes in from outside is 0, as for all warps."""
    horizontal_flip: bool | Literal["alternating"] = False
    """Mirror every second image, chosen at random. `alternating`: those that were not mirrored in the last epoch, which
    shows each image from both sides twice as evenly."""
    shift_pixels: WholePixels = 0
    """Move each image by up to so many pixels in both directions; the edge is mirrored into the gap."""
    cutout_pixels: WholePixels = 0
    """Side of a square that is painted over in the mean colour."""
    cutmix: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.0
    """Share of the images that get a rectangle of another image, and of its label as much as of its pixels; needs
    loss.labels = "one-hot"."""


class Shrunk(_Config, frozen=True, kw_only=True):
    """Images made smaller in the first part of a training."""

    until: Annotated[float, msgspec.Meta(gt=0, le=1)]
    """Share of all epochs after which this ends."""
    scale: Annotated[float, msgspec.Meta(gt=0, lt=1)]
    """Share of their height and width that images keep."""


Precision: TypeAlias = Literal["float32", "mixed_bfloat16"]


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
    precision: Precision = "float32"
    """What layers compute in while training; `mixed_bfloat16` is faster where the processor knows bfloat16. Weights,
    logits and the exported network are float32 either way."""
    progressive_resizing: tuple[Shrunk, ...] = ()
    """Stages of smaller images, one after the other, which make early epochs cheaper; needs a global pool."""
    weight_averaging: Annotated[float, msgspec.Meta(ge=0, lt=1)] = 0.0
    """Validate and keep an exponential moving average of the weights: what is left of the average in each step."""
    batch_norm_momentum: Annotated[float, msgspec.Meta(ge=0, lt=1)] = 0.99
    """What is left of batch normalisation's moving statistics in each step."""

    def __post_init__(self) -> None:
        """Check what a type cannot say."""
        ends = [stage.until for stage in self.progressive_resizing]
        if sorted(set(ends)) != ends:
            raise ValueError(f"progressive_resizing ends at {ends}; each stage ends after the one before")
        if self.augmentation.cutmix and self.loss.labels != "one-hot":
            raise ValueError(f"augmentation.cutmix is {self.augmentation.cutmix}; it needs loss.labels = 'one-hot'")

    def image_scale(self, epoch: int) -> float:
        """Share of their height and width that images have in `epoch`, counted from 1."""
        for stage in self.progressive_resizing:
            if epoch <= round(stage.until * self.epochs):
                return stage.scale
        return 1.0
