"""TensorProto to arrays and image files, and back, as TensorFlow reads and writes them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from convserve.errors import InvalidRequestError
from convserve.server import shapes
from convserve.tensorflow_core.v1 import tensor_pb2 as pb

MAX_REPEATED = 2**18
"""Most elements of a tensor whose last value is repeated: a few bytes can stand for any number of them, and whoever
reads them has other calls to answer. 85 RGB images of 32x32."""

_TYPES: dict[pb.DataType.ValueType, tuple[str, str]] = {
    pb.DT_UINT8: ("uint8", "int_val"),
    pb.DT_UINT16: ("uint16", "int_val"),
    pb.DT_UINT32: ("uint32", "uint32_val"),
    pb.DT_UINT64: ("uint64", "uint64_val"),
    pb.DT_INT8: ("int8", "int_val"),
    pb.DT_INT16: ("int16", "int_val"),
    pb.DT_INT32: ("int32", "int_val"),
    pb.DT_INT64: ("int64", "int64_val"),
    pb.DT_HALF: ("float16", "half_val"),
    pb.DT_FLOAT: ("float32", "float_val"),
    pb.DT_DOUBLE: ("float64", "double_val"),
}
"""NumPy's name of a type, and the field that holds its elements."""

_NOT_ELEMENTS = ("dtype", "tensor_shape", "version_number")


def read_numbers(tensor: pb.TensorProto, field: str) -> npt.NDArray[Any]:
    """The elements of a tensor of numbers, in its shape. Bytes are viewed, not copied.

    Raises:
        InvalidRequestError: type, shape, field or number of elements are wrong.
    """
    if tensor.dtype not in _TYPES:
        known = ", ".join(pb.DataType.Name(dtype) for dtype in _TYPES)
        raise InvalidRequestError.of(
            f"{field}.dtype", f"{type_name(tensor.dtype)} came; it must be {known}, or DT_STRING for image files"
        )
    name, values_field = _TYPES[tensor.dtype]
    dtype = np.dtype(name).newbyteorder("<")
    shape = read_shape(tensor, field)
    if len(shape) != 4 or min(shape) < 1:
        raise InvalidRequestError.of(
            f"{field}.tensor_shape",
            f"{list(shape)} came; pixels are [images, height, width, channels], each at least 1",
        )
    size = math.prod(shape)
    if _elements(tensor, field, ("tensor_content", values_field)) == "tensor_content":
        content = tensor.tensor_content
        if len(content) != size * dtype.itemsize:
            raise InvalidRequestError.of(
                f"{field}.tensor_content",
                f"{len(content)} bytes came; shape {list(shape)} takes {size * dtype.itemsize}"
                f" ({type_name(tensor.dtype)})",
            )
        return np.frombuffer(content, dtype).reshape(shape)
    values = _convert(np.array(getattr(tensor, values_field)), dtype, f"{field}.{values_field}")
    if len(values) > size or (len(values) < size and size > MAX_REPEATED):
        raise InvalidRequestError.of(
            f"{field}.{values_field}", f"{len(values)} values came; shape {list(shape)} takes {size}"
        )
    if len(values) < size:
        values = np.pad(values, (0, size - len(values)), mode="edge")
    return values.reshape(shape)


def read_files(tensor: pb.TensorProto, field: str) -> list[bytes]:
    """The elements of a DT_STRING tensor: image files.

    Raises:
        InvalidRequestError: shape, field or number of elements are wrong.
    """
    shape = read_shape(tensor, field)
    if not (len(shape) in (1, 2) and shape[1:] in ((), (1,)) and shape[0] >= 1):
        raise InvalidRequestError.of(
            f"{field}.tensor_shape", f"{list(shape)} came; image files are [images] or [images, 1], at least one"
        )
    _elements(tensor, field, ("string_val",))
    if len(tensor.string_val) != shape[0]:
        raise InvalidRequestError.of(
            f"{field}.string_val", f"{len(tensor.string_val)} values came; shape {list(shape)} takes {shape[0]}"
        )
    return list(tensor.string_val)


def read_shape(tensor: pb.TensorProto, field: str) -> tuple[int, ...]:
    """The shape of a tensor.

    Raises:
        InvalidRequestError: it is open, or longer than any.
    """
    if tensor.tensor_shape.unknown_rank:
        raise InvalidRequestError.of(f"{field}.tensor_shape", "is unknown; say how many images came")
    return tuple(dim.size for dim in shapes.read(tensor.tensor_shape.dim, f"{field}.tensor_shape"))


def write_numbers(values: npt.NDArray[np.float32]) -> pb.TensorProto:
    """A tensor of DT_FLOAT, in the typed field as TensorFlow Serving does it."""
    return pb.TensorProto(dtype=pb.DT_FLOAT, tensor_shape=shape_of(values.shape), float_val=values.ravel())


def shape_of(sizes: Sequence[int]) -> pb.TensorShapeProto:
    """A shape as a message."""
    return pb.TensorShapeProto(dim=[pb.TensorShapeProto.Dim(size=size) for size in sizes])


def type_name(dtype: pb.DataType.ValueType) -> str:
    """TensorFlow's name of a type, or its number."""
    return pb.DataType.Name(dtype) if dtype in pb.DataType.values() else f"type {dtype}"


def _elements(tensor: pb.TensorProto, field: str, accepted: tuple[str, ...]) -> str:
    """The one field that holds the elements."""
    present = [one.name for one, _ in tensor.ListFields() if one.name not in _NOT_ELEMENTS]
    if len(present) != 1 or present[0] not in accepted:
        raise InvalidRequestError.of(
            field,
            f"has its elements in {' and '.join(present) or 'no field'}; {type_name(tensor.dtype)} is sent in"
            f" {' or '.join(accepted)}",
        )
    return present[0]


def _convert(values: npt.NDArray[Any], dtype: np.dtype[Any], field: str) -> npt.NDArray[Any]:
    """Values of a typed field, which is wider than their type."""
    if dtype == np.float16:  # the field holds the bits
        return _convert(values, np.dtype(np.uint16), field).view(np.float16)
    if dtype.kind != "f" and (values.min() < np.iinfo(dtype).min or values.max() > np.iinfo(dtype).max):
        raise InvalidRequestError.of(field, f"a value is outside {dtype.name}")
    return values.astype(dtype)
