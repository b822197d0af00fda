"""From the description of a network to a Keras model."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from convserve.manifest import INPUT_NAME, LOGITS_NAME, PROBABILITIES_NAME, InputSpec
from convtrain import backend, layers
from convtrain.architectures import (
    Activate,
    Activation,
    Architecture,
    BatchNorm,
    Conv,
    Dense,
    Dropout,
    Flatten,
    GlobalPool,
    Layer,
    Normalization,
    Pool,
    Residual,
    SeparableConv,
    Whiten,
)
from convtrain.config import Precision
from convtrain.layout import lay_out, pair, step_of

WHITEN_NAME = "whiten"
"""Name of the layer whose filters come from the training images."""


def build(architecture: Architecture, spec: InputSpec, classes: int, *, temperature: float = 1.0) -> Any:
    """Build the network: a functional `keras.Model`, float32, channels last.

    Args:
        architecture: the layers.
        spec: shape of one image.
        classes: number of labels.
        temperature: calibration temperature; probabilities are softmax(logits / temperature).

    Returns:
        A model from `image`, uint8 [N, H, W, C], to a dict of `logits` and `probabilities`, float32 [N, classes].

    Raises:
        ArchitectureError: the layers do not fit together.
        MissingExtraError: TensorFlow is not installed.
    """
    lay_out(architecture, spec, classes)
    return _assemble(architecture, spec.shape, classes, temperature, backend.keras().layers.BatchNormalization)


def build_for_training(
    architecture: Architecture, spec: InputSpec, classes: int, *, precision: Precision, any_size: bool
) -> Any:
    """Build the network as it is trained: its weights are those of `build`, in the same order.

    Args:
        architecture: the layers.
        spec: shape of one image.
        classes: number of labels.
        precision: what the layers but the last compute in; weights and outputs are float32 either way.
        any_size: take images of any height and width, which `Preset.check` allows.

    Raises:
        ArchitectureError: the layers do not fit together.
        MissingExtraError: TensorFlow is not installed.
    """
    lay_out(architecture, spec, classes)
    shape = (None, None, spec.channels) if any_size else spec.shape
    with _precision(precision):
        return _assemble(architecture, shape, classes, 1.0, layers.fast_batch_normalization())


@contextlib.contextmanager
def _precision(precision: Precision) -> Iterator[None]:
    config = backend.keras().config
    before = config.dtype_policy()
    config.set_dtype_policy(precision)
    try:
        yield
    finally:
        config.set_dtype_policy(before)


def _assemble(
    architecture: Architecture, shape: tuple[int | None, ...], classes: int, temperature: float, batch_norm: Any
) -> Any:
    keras = backend.keras()
    image = keras.Input(shape, dtype="uint8", name=INPUT_NAME)
    x = _normalize(image, architecture.normalization)
    builder = _Builder(batch_norm, identity=architecture.initialization == "identity")
    for layer in architecture.layers:
        x = builder.apply(layer, x)
    kernel = keras.initializers.RandomNormal(stddev=1 / x.shape[-1]) if builder.identity else "glorot_uniform"
    logits = keras.layers.Dense(classes, kernel_initializer=kernel, dtype="float32", name=LOGITS_NAME)(x)
    scaled = logits if temperature == 1.0 else keras.layers.Rescaling(1 / temperature, dtype="float32")(logits)
    probabilities = keras.layers.Softmax(dtype="float32", name=PROBABILITIES_NAME)(scaled)
    return keras.Model(image, {LOGITS_NAME: logits, PROBABILITIES_NAME: probabilities})


def _normalize(image: Any, normalization: Normalization) -> Any:
    # NumPy values become constants of the graph: no weights, and no tensors that an export would take for inputs.
    x = backend.keras().ops.cast(image, "float32")
    if normalization.mean != 0.0:
        x = x - np.asarray(normalization.mean, np.float32)
    return x * np.asarray(1 / np.asarray(normalization.std), np.float32)


class _Builder:
    """Makes one Keras layer after the other."""

    def __init__(self, batch_norm: Any, *, identity: bool) -> None:
        self.identity = identity
        self._batch_norm = batch_norm
        self._kernel = layers.partial_identity()() if identity else "glorot_uniform"

    def apply(self, layer: Layer, x: Any) -> Any:
        """Put a layer after `x`. Returns its output."""
        keras = backend.keras()
        make = keras.layers
        match layer:
            case Conv():
                x = make.Conv2D(
                    layer.filters,
                    pair(layer.kernel_size),
                    pair(layer.strides),
                    layer.padding,
                    dilation_rate=pair(layer.dilation_rate),
                    use_bias=not layer.batch_norm,
                    kernel_initializer=self._kernel,
                    kernel_regularizer=_l2(layer.l2),
                )(x)
                if layer.pool > 1:
                    x = make.MaxPooling2D(layer.pool)(x)
                return self._finish(x, layer.activation, layer.batch_norm)
            case SeparableConv():
                x = make.SeparableConv2D(
                    layer.filters,
                    pair(layer.kernel_size),
                    pair(layer.strides),
                    layer.padding,
                    dilation_rate=pair(layer.dilation_rate),
                    use_bias=not layer.batch_norm,
                    depthwise_regularizer=_l2(layer.l2),
                    pointwise_regularizer=_l2(layer.l2),
                )(x)
                return self._finish(x, layer.activation, layer.batch_norm)
            case Whiten():
                filters = 2 * layer.kernel_size**2 * x.shape[-1]
                convolution = make.Conv2D(filters, layer.kernel_size, name=WHITEN_NAME)
                x = convolution(x)
                convolution.kernel.trainable = False
                return _activate(x, layer.activation)
            case Residual():
                inner = x
                for one in layer.layers:
                    inner = self.apply(one, inner)
                return _activate(make.Add()([x, inner]), layer.activation)
            case Pool():
                pool = make.MaxPooling2D if layer.kind == "max" else make.AveragePooling2D
                return pool(pair(layer.size), pair(step_of(layer)), layer.padding)(x)
            case GlobalPool():
                pool = make.GlobalMaxPooling2D if layer.kind == "max" else make.GlobalAveragePooling2D
                return pool()(x)
            case BatchNorm():
                return self._batch_norm()(x)
            case Activate():
                return _activate(x, layer.activation)
            case Dropout():
                return make.Dropout(layer.rate)(x)
            case Flatten():
                # `Flatten` and `Reshape` of Keras ask for the batch size at run time, which becomes seven ONNX nodes.
                height, width, channels = x.shape[1:]
                return keras.ops.reshape(x, (-1, height * width * channels))
            case Dense():
                x = make.Dense(layer.units, use_bias=not layer.batch_norm, kernel_regularizer=_l2(layer.l2))(x)
                return self._finish(x, layer.activation, layer.batch_norm)

    def _finish(self, x: Any, activation: Activation, batch_norm: bool) -> Any:
        return _activate(self._batch_norm()(x) if batch_norm else x, activation)


def _activate(x: Any, activation: Activation) -> Any:
    keras = backend.keras()
    if activation == "linear":
        return x
    if activation == "gelu":  # Keras computes it from erfc, which ONNX does not have
        return x * (0.5 * (keras.ops.erf(x * math.sqrt(0.5)) + 1))
    return keras.layers.Activation(activation)(x)


def _l2(weight: float) -> Any:
    return backend.keras().regularizers.L2(weight) if weight else None
