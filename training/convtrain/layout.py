"""Arithmetic of layers: shapes, parameters, multiply-adds and receptive field, and what does not fit together."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from convserve.manifest import InputSpec
from convtrain.architectures import (
    LARGEST_WHOLE,
    Activate,
    Architecture,
    BatchNorm,
    Conv,
    Dense,
    Dropout,
    Flatten,
    GlobalPool,
    Layer,
    Padding,
    Pool,
    Residual,
    SeparableConv,
    Size,
    Whiten,
)
from convtrain.errors import ArchitectureError

Shape: TypeAlias = tuple[int, ...]
"""(height, width, channels), or (values,) once flat. The batch is left out."""


@dataclass(frozen=True)
class Row:
    """One layer as it lies in the network."""

    name: str
    """Such as `conv 3×3` or `logits`."""
    details: str
    """What makes it other than a plain one of its kind, such as `stride 2, batch norm, relu`; often empty."""
    shape: Shape
    """Shape of the output."""
    parameters: int
    """Trained and other parameters."""
    multiply_adds: int
    """Multiplications with addition for one image; biases, activations and pooling are not counted."""
    receptive_field: tuple[int, int] | None
    """Height and width in pixels of the part of the image that one value can see; None where it sees all."""


def pair(size: Size) -> tuple[int, int]:
    """(height, width) of a size."""
    return (size, size) if isinstance(size, int) else size


def step_of(pool: Pool) -> Size:
    """Step of a pooling's window."""
    return pool.size if pool.strides is None else pool.strides


def output_length(length: int, window: int, stride: int, padding: Padding, dilation: int = 1) -> int:
    """Length of a map after a window moved over it, in one direction. 0 or less: the window does not fit."""
    if padding == "same":
        return math.ceil(length / stride)
    return (length - dilation * (window - 1) - 1) // stride + 1


def lay_out(architecture: Architecture, spec: InputSpec, classes: int) -> list[Row]:
    """Compute every layer's row, that of the logits at the end.

    Raises:
        ArchitectureError: the layers do not fit together; names the layer, the shape there, and a way out.
    """
    for name, values in (("mean", architecture.normalization.mean), ("std", architecture.normalization.std)):
        if isinstance(values, tuple) and len(values) != spec.channels:
            raise ArchitectureError(
                f"normalization.{name} has {len(values)} values, images {spec.channels} channels; give one number, "
                "or one for each channel"
            )
    if 0 in _values(architecture.normalization.std):
        raise ArchitectureError("normalization.std is 0; nothing can be divided by it")
    rows: list[Row] = []
    walk = _Walk(spec.shape)
    for number, layer in enumerate(architecture.layers, start=1):
        rows.extend(walk.rows(layer, f"layer {number}"))
    walk.where = "the last dense layer (logits)"
    walk.need_flat()
    rows.append(Row("logits", "", (classes,), (walk.shape[0] + 1) * classes, walk.shape[0] * classes, None))
    return rows


def layer_name(layer: Layer) -> str:
    """What the layer is, in a few characters."""
    tag = str(layer.__struct_config__.tag)
    match layer:
        case Conv() | SeparableConv() | Whiten():
            return f"{tag} {_window(layer.kernel_size)}"
        case Pool():
            return f"{layer.kind} pool {_window(layer.size)}"
        case GlobalPool():
            return f"global {layer.kind} pool"
        case Activate():
            return layer.activation
        case _:
            return tag


class _Walk:
    """Goes through the layers and knows the shape and the receptive field where it is."""

    def __init__(self, shape: Shape) -> None:
        self.shape = shape
        self.where = ""
        self._field: tuple[int, int] | None = (1, 1)
        self._step = (1, 1)  # pixels of the image between neighbours of the map

    def rows(self, layer: Layer, place: str) -> list[Row]:
        """Take in one layer, or several where it holds others; `place` says which it is, for errors."""
        self.where = f"{place} ({layer_name(layer)})"
        if not isinstance(layer, Residual):
            return [self._row(layer)]
        self.need_map()
        before = self.shape
        inner = [row for number, one in enumerate(layer.layers, 1) for row in self.rows(one, f"{place}, its {number}")]
        self.where = f"{place} ({layer_name(layer)})"
        if self.shape != before:
            raise self._error(
                f"that cannot be added to its input, which is {'×'.join(map(str, before))}; let the layers inside keep "
                f"the size, and the last one have {before[2]} filters",
                "output",
            )
        return [*inner, Row(layer_name(layer), _details(layer), self.shape, 0, 0, self._field)]

    def _row(self, layer: Layer) -> Row:
        parameters = multiply_adds = 0
        match layer:
            case Conv() | SeparableConv():
                parameters, multiply_adds = self._convolve(layer)
            case Whiten():
                parameters, multiply_adds = self._whiten(layer)
            case Pool():
                size = pair(layer.size)
                self._slide(size, pair(step_of(layer)), layer.padding, (1, 1))
            case GlobalPool():
                self.need_map()
                self.shape, self._field = self.shape[2:], None
            case Flatten():
                self.need_map()
                self.shape, self._field = (math.prod(self.shape),), None
            case Dense():
                self.need_flat()
                multiply_adds = self.shape[0] * layer.units
                parameters = multiply_adds + (4 if layer.batch_norm else 1) * layer.units
                self.shape = (layer.units,)
            case BatchNorm():
                parameters = 4 * self.shape[-1]
            case Activate() | Dropout():
                pass
        return Row(layer_name(layer), _details(layer), self.shape, parameters, multiply_adds, self._field)

    def need_map(self) -> None:
        """Refuse a layer that needs a map where there is a flat vector."""
        if len(self.shape) != 3:
            raise self._error("it needs a map of height, width and channels; put it before the flatten or global pool")

    def need_flat(self) -> None:
        """Refuse a layer that needs a flat vector where there is a map."""
        if len(self.shape) != 1:
            raise self._error('it needs a flat vector; put {layer = "flatten"} or {layer = "global_pool"} before it')

    def _convolve(self, layer: Conv | SeparableConv) -> tuple[int, int]:
        """Move a convolution over the map. Returns parameters and multiply-adds."""
        kernel, strides, dilation = pair(layer.kernel_size), pair(layer.strides), pair(layer.dilation_rate)
        if max(strides) > 1 and max(dilation) > 1:
            raise self._error(f"strides {strides} and dilation_rate {dilation} exclude each other; leave one at 1")
        if isinstance(layer, SeparableConv) and strides[0] != strides[1]:
            raise self._error(f"strides are {strides}; a separable convolution takes the same in both directions")
        self.need_map()
        channels = self.shape[2]
        self._slide(kernel, strides, layer.padding, dilation)
        places = self.shape[0] * self.shape[1]
        if isinstance(layer, SeparableConv):
            weights = math.prod(kernel) * channels + channels * layer.filters
        else:
            weights = math.prod(kernel) * channels * layer.filters
        self.shape = (*self.shape[:2], layer.filters)
        if isinstance(layer, Conv) and layer.pool > 1:
            self.where = f"{self.where}, its pool"
            self._slide(pair(layer.pool), pair(layer.pool), "valid", (1, 1))
        return weights + (4 if layer.batch_norm else 1) * layer.filters, weights * places

    def _whiten(self, layer: Whiten) -> tuple[int, int]:
        """Move the fixed convolution over the image. Returns parameters and multiply-adds."""
        if self.where.split(" (")[0] != "layer 1":
            raise self._error("its filters are computed from pixels; put it first")
        patch = layer.kernel_size**2 * self.shape[2]
        self._slide(pair(layer.kernel_size), (1, 1), "valid", (1, 1))
        self.shape = (*self.shape[:2], 2 * patch)
        return (patch + 1) * 2 * patch, patch * 2 * patch * self.shape[0] * self.shape[1]

    def _slide(
        self, window: tuple[int, int], strides: tuple[int, int], padding: Padding, dilation: tuple[int, int]
    ) -> None:
        """Move a window over the map."""
        self.need_map()
        sizes = (*window, *strides, *dilation)
        if min(sizes) < 1 or max(sizes) > LARGEST_WHOLE:
            raise self._error(
                f"sizes are from 1 to {LARGEST_WHOLE}; here the window is {_window(window)}, its step "
                f"{_window(strides)}, its dilation {_window(dilation)}"
            )
        height, width = (
            output_length(length, size, stride, padding, spread)
            for length, size, stride, spread in zip(self.shape[:2], window, strides, dilation, strict=True)
        )
        reach = [spread * (size - 1) for size, spread in zip(window, dilation, strict=True)]
        if min(height, width) < 1:
            covered = f"{reach[0] + 1}×{reach[1] + 1}"
            raise self._error(
                f"the window is larger than the map, it covers {covered}; use padding 'same', a smaller window, or "
                "fewer pools and strides before it"
            )
        if self._field is not None:
            self._field = (self._field[0] + reach[0] * self._step[0], self._field[1] + reach[1] * self._step[1])
            self._step = (self._step[0] * strides[0], self._step[1] * strides[1])
        self.shape = (height, width, self.shape[2])

    def _error(self, reason: str, end: str = "input") -> ArchitectureError:
        shape = "×".join(map(str, self.shape))
        return ArchitectureError(f"{self.where}: its {end} is {shape}; {reason}")


def _details(layer: Layer) -> str:
    parts: list[str] = []
    match layer:
        case Conv() | SeparableConv():
            parts += [layer.padding] if layer.padding != "same" else []
            parts += [f"stride {_size(layer.strides)}"] if max(pair(layer.strides)) > 1 else []
            parts += [f"dilation {_size(layer.dilation_rate)}"] if max(pair(layer.dilation_rate)) > 1 else []
            parts += [f"pool {layer.pool}"] if isinstance(layer, Conv) and layer.pool > 1 else []
        case Pool():
            parts += [f"stride {_size(step_of(layer))}"] if step_of(layer) != layer.size else []
            parts += [layer.padding] if layer.padding != "valid" else []
        case Dropout():
            parts.append(f"{layer.rate:g}")
    if isinstance(layer, Conv | SeparableConv | Dense) and layer.batch_norm:
        parts.append("batch norm")
    if isinstance(layer, Conv | SeparableConv | Dense | Whiten | Residual) and layer.activation != "linear":
        parts.append(layer.activation)
    if isinstance(layer, Conv | SeparableConv | Dense) and layer.l2:
        parts.append(f"L2 {layer.l2:g}")
    return ", ".join(parts)


def _window(size: Size) -> str:
    return "×".join(map(str, pair(size)))


def _size(size: Size) -> str:
    height, width = pair(size)
    return str(height) if height == width else _window(size)


def _values(number: float | Sequence[float]) -> Sequence[float]:
    return number if isinstance(number, Sequence) else (number,)
