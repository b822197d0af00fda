"""Descriptions of networks: what the layers are, without a word of TensorFlow.

A description goes into the manifest and can be read from TOML. `layout.py` computes shapes and counts from it and
refuses what does not fit together; `network.py` builds it in Keras.
"""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

import msgspec

LARGEST_WHOLE = 2**31 - 1
"""Whole numbers end here, as those of the libraries do."""
PositiveInt = Annotated[int, msgspec.Meta(ge=1, le=LARGEST_WHOLE)]
Size: TypeAlias = int | tuple[int, int]
"""One number for both directions, or (height, width); at least 1. `layout.py` checks it: msgspec crashes on limits."""
Padding: TypeAlias = Literal["valid", "same"]
Activation: TypeAlias = Literal["linear", "relu", "leaky_relu", "elu", "gelu", "silu", "tanh", "sigmoid"]
LARGEST = 3.4e38
"""Numbers of a description end here, as those of float32 do; infinity and NaN are none."""
Number: TypeAlias = Annotated[float, msgspec.Meta(ge=-LARGEST, le=LARGEST)]
L2: TypeAlias = Annotated[float, msgspec.Meta(ge=0, le=LARGEST)]


class _Layer(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="layer", kw_only=True):
    """Frozen, strict about unknown keys, told apart by the key `layer`."""


class Conv(_Layer, frozen=True, kw_only=True, tag="conv"):
    """A convolution, then batch normalisation if wanted, then the activation."""

    filters: PositiveInt
    """Output channels."""
    kernel_size: Size = 3
    """Size of the window in pixels."""
    strides: Size = 1
    """Step of the window in pixels. Above 1 only without dilation."""
    padding: Padding = "same"
    """`valid`: only whole windows, the map shrinks. `same`: zeros around, the map keeps its size over the stride."""
    dilation_rate: Size = 1
    """Distance between the window's pixels. Above 1 only without strides."""
    activation: Activation = "relu"
    """Function applied at the end."""
    batch_norm: bool = False
    """Normalise before the activation; the convolution then needs no bias and has none."""
    pool: PositiveInt = 1
    """Size of a max pooling between the convolution and its normalisation, where it spares most work; 1: none."""
    l2: L2 = 0.0
    """Weight of the squared kernel in the loss."""


class SeparableConv(_Layer, frozen=True, kw_only=True, tag="separable_conv"):
    """A convolution of each channel by itself, then a 1×1 convolution across channels. Fields as in `Conv`."""

    filters: PositiveInt
    kernel_size: Size = 3
    strides: Size = 1
    padding: Padding = "same"
    dilation_rate: Size = 1
    activation: Activation = "relu"
    batch_norm: bool = False
    l2: L2 = 0.0


class Whiten(_Layer, frozen=True, kw_only=True, tag="whiten"):
    """A fixed convolution that decorrelates neighbouring pixels, with a trained bias; only as the first layer.

    Its filters are the principal directions of the training images' patches, scaled to variance 1, and their negatives:
    2·kernel_size²·channels in all. Training starts from what they give (Jordan, arXiv 2404.00498, section 3.1).
    """

    kernel_size: PositiveInt = 2
    """Side of the patches in pixels."""
    activation: Activation = "relu"
    """Function applied at the end."""


class Residual(_Layer, frozen=True, kw_only=True, tag="residual"):
    """Adds its input to what its layers make of it, then the activation (He et al., 2016)."""

    layers: tuple[Layer, ...]
    """The layers inside; together they keep the shape."""
    activation: Activation = "relu"
    """Function applied to the sum."""


class Pool(_Layer, frozen=True, kw_only=True, tag="pool"):
    """The largest or the mean value of each window."""

    kind: Literal["max", "average"] = "max"
    """What is kept of a window."""
    size: Size = 2
    """Size of the window in pixels."""
    strides: Size | None = None
    """Step of the window in pixels; the window's size when not given."""
    padding: Padding = "valid"
    """As in `Conv`."""


class GlobalPool(_Layer, frozen=True, kw_only=True, tag="global_pool"):
    """The largest or the mean value of each whole channel: [N, H, W, C] becomes [N, C]."""

    kind: Literal["max", "average"] = "average"
    """What is kept of a channel."""


class BatchNorm(_Layer, frozen=True, kw_only=True, tag="batch_norm"):
    """Normalisation of each channel over the batch."""


class Activate(_Layer, frozen=True, kw_only=True, tag="activation"):
    """An activation by itself."""

    activation: Activation
    """The function."""


class Dropout(_Layer, frozen=True, kw_only=True, tag="dropout"):
    """Sets values to zero at random, in training only."""

    rate: Annotated[float, msgspec.Meta(ge=0, lt=1)]
    """Share of values set to zero."""


class Flatten(_Layer, frozen=True, kw_only=True, tag="flatten"):
    """[N, H, W, C] becomes [N, H·W·C]."""


class Dense(_Layer, frozen=True, kw_only=True, tag="dense"):
    """A fully connected layer, then batch normalisation if wanted, then the activation."""

    units: PositiveInt
    """Width of the output."""
    activation: Activation = "relu"
    """Function applied at the end."""
    batch_norm: bool = False
    """Normalise before the activation; the layer then needs no bias and has none."""
    l2: L2 = 0.0
    """Weight of the squared kernel in the loss."""


Layer: TypeAlias = (
    Conv | SeparableConv | Whiten | Residual | Pool | GlobalPool | BatchNorm | Activate | Dropout | Flatten | Dense
)
"""Any layer."""


class Normalization(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What the graph does to samples of 0..255 first: (sample - mean) / std."""

    mean: Number | tuple[Number, ...] = 0.0
    """Subtracted; one number, or one per channel."""
    std: Number | tuple[Number, ...] = 255.0
    """Divided by; one number, or one per channel. The defaults give 0..1."""


class Architecture(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A whole network, from uint8 pixels to what goes before the logits.

    The last dense layer, from here to one logit for each class, is always there and not listed: its width is the number
    of labels of the data set.
    """

    layers: tuple[Layer, ...]
    """The layers in order."""
    normalization: Normalization = Normalization()
    """What is done to the pixels first."""
    initialization: Literal["glorot", "identity"] = "glorot"
    """Weights before training. `glorot`: random, as Keras does. `identity`: a convolution's first filters pass its
    channels on, the others are random; the logits start near 0."""
