"""From the description of a network to a Keras model."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from convserve.manifest import INPUT_NAME, LOGITS_NAME, PROBABILITIES_NAME, InputSpec
from convtrain import backend
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
    SeparableConv,
)
from convtrain.layout import lay_out, pair


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
    keras = backend.keras()
    image = keras.Input(spec.shape, dtype="uint8", name=INPUT_NAME)
    x = _normalize(image, architecture.normalization)
    for layer in architecture.layers:
        x = _apply(layer, x)
    logits = keras.layers.Dense(classes, name=LOGITS_NAME)(x)
    scaled = logits if temperature == 1.0 else keras.layers.Rescaling(1 / temperature)(logits)
    probabilities = keras.layers.Softmax(name=PROBABILITIES_NAME)(scaled)
    return keras.Model(image, {LOGITS_NAME: logits, PROBABILITIES_NAME: probabilities})


def _normalize(image: Any, normalization: Normalization) -> Any:
    # NumPy values become constants of the graph: no weights, and no tensors that an export would take for inputs.
    x = backend.keras().ops.cast(image, "float32")
    if normalization.mean != 0.0:
        x = x - np.asarray(normalization.mean, np.float32)
    return x * np.asarray(1 / np.asarray(normalization.std), np.float32)


def _apply(layer: Layer, x: Any) -> Any:
    keras = backend.keras()
    layers = keras.layers
    match layer:
        case Conv():
            x = layers.Conv2D(
                layer.filters,
                pair(layer.kernel_size),
                pair(layer.strides),
                layer.padding,
                dilation_rate=pair(layer.dilation_rate),
                use_bias=not layer.batch_norm,
                kernel_regularizer=_l2(layer.l2),
            )(x)
            return _finish(x, layer.activation, layer.batch_norm)
        case SeparableConv():
            x = layers.SeparableConv2D(
                layer.filters,
                pair(layer.kernel_size),
                pair(layer.strides),
                layer.padding,
                dilation_rate=pair(layer.dilation_rate),
                use_bias=not layer.batch_norm,
                depthwise_regularizer=_l2(layer.l2),
                pointwise_regularizer=_l2(layer.l2),
            )(x)
            return _finish(x, layer.activation, layer.batch_norm)
        case Pool():
            pool = layers.MaxPooling2D if layer.kind == "max" else layers.AveragePooling2D
            return pool(pair(layer.size), pair(layer.strides or layer.size), layer.padding)(x)
        case GlobalPool():
            pool = layers.GlobalMaxPooling2D if layer.kind == "max" else layers.GlobalAveragePooling2D
            return pool()(x)
        case BatchNorm():
            return layers.BatchNormalization()(x)
        case Activate():
            return _activate(x, layer.activation)
        case Dropout():
            return layers.Dropout(layer.rate)(x)
        case Flatten():
            # `layers.Flatten` and `layers.Reshape` ask for the batch size at run time, which becomes seven ONNX nodes.
            height, width, channels = x.shape[1:]
            return keras.ops.reshape(x, (-1, height * width * channels))
        case Dense():
            x = layers.Dense(layer.units, use_bias=not layer.batch_norm, kernel_regularizer=_l2(layer.l2))(x)
            return _finish(x, layer.activation, layer.batch_norm)


def _finish(x: Any, activation: Activation, batch_norm: bool) -> Any:
    layers = backend.keras().layers
    if batch_norm:
        x = layers.BatchNormalization()(x)
    return _activate(x, activation)


def _activate(x: Any, activation: Activation) -> Any:
    keras = backend.keras()
    if activation == "linear":
        return x
    if activation == "gelu":  # Keras computes it from erfc, which ONNX does not have
        return x * (0.5 * (keras.ops.erf(x * math.sqrt(0.5)) + 1))
    return keras.layers.Activation(activation)(x)


def _l2(weight: float) -> Any:
    return backend.keras().regularizers.L2(weight) if weight else None
