"""Tensors of the protocol: typed fields or raw bytes to arrays and image files, and arrays to raw bytes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from convserve.errors import InvalidRequestError
from convserve.open_inference.v2 import infer_pb2 as pb
from convserve.server import shapes

Tensor = pb.ModelInferRequest.InferInputTensor

MAX_ELEMENTS = 1_000_000
"""Most elements of a BYTES tensor; each is an image file, and one request takes far fewer."""

_TYPES: dict[str, tuple[np.dtype[Any], str]] = {
    "UINT8": (np.dtype("u1"), "uint_contents"),
    "UINT16": (np.dtype("<u2"), "uint_contents"),
    "UINT32": (np.dtype("<u4"), "uint_contents"),
    "UINT64": (np.dtype("<u8"), "uint64_contents"),
    "INT8": (np.dtype("i1"), "int_contents"),
    "INT16": (np.dtype("<i2"), "int_contents"),
    "INT32": (np.dtype("<i4"), "int_contents"),
    "INT64": (np.dtype("<i8"), "int64_contents"),
    "FP16": (np.dtype("<f2"), ""),
    "FP32": (np.dtype("<f4"), "fp32_contents"),
    "FP64": (np.dtype("<f8"), "fp64_contents"),
}
"""How NumPy calls a datatype, little-endian, and the field that holds its elements; empty: raw only."""

_LENGTH_BYTES = 4
_FLOAT = np.dtype("<f4")


def read_numbers(tensor: Tensor, raw: bytes | None, field: str) -> npt.NDArray[Any]:
    """The elements of a tensor of numbers, in its shape. Raw ones are viewed, not copied.

    Args:
        tensor: the tensor.
        raw: its entry of `raw_input_contents`; None: the elements are in the typed field.
        field: its path in the request.

    Raises:
        InvalidRequestError: datatype, shape, field or number of elements are wrong.
    """
    if tensor.datatype not in _TYPES:
        raise InvalidRequestError.of(
            f"{field}.datatype", f"{tensor.datatype!r} came; it must be {', '.join(_TYPES)}, or BYTES for image files"
        )
    dtype, contents = _TYPES[tensor.datatype]
    shape = shapes.read(tensor.shape, f"{field}.shape")
    if len(shape) != 4 or min(shape) < 1:
        raise InvalidRequestError.of(
            f"{field}.shape",
            f"{list(shape)} came; pixels are [images, height, width, channels], each at least 1",
        )
    size = math.prod(shape)
    if raw is not None:
        if len(raw) != size * dtype.itemsize:
            raise InvalidRequestError.of(
                "raw_input_contents[0]",
                f"{len(raw)} bytes came; shape {list(shape)} takes {size * dtype.itemsize} ({tensor.datatype})",
            )
        return np.ndarray(shape, dtype, raw)
    values = np.array(_typed(tensor, contents, field))
    if len(values) != size:
        raise InvalidRequestError.of(
            f"{field}.contents.{contents}", f"{len(values)} values came; shape {list(shape)} takes {size}"
        )
    if dtype.kind != "f" and (values.min() < np.iinfo(dtype).min or values.max() > np.iinfo(dtype).max):
        raise InvalidRequestError.of(f"{field}.contents.{contents}", f"a value is outside {tensor.datatype}")
    return values.astype(dtype).reshape(shape)


def read_files(tensor: Tensor, raw: bytes | None, field: str) -> list[bytes]:
    """The elements of a BYTES tensor: image files.

    Raises:
        InvalidRequestError: shape, field or number of elements are wrong, or a length points outside.
    """
    shape = shapes.read(tensor.shape, f"{field}.shape")
    if not (len(shape) in (1, 2) and shape[1:] in ((), (1,)) and 1 <= shape[0] <= MAX_ELEMENTS):
        raise InvalidRequestError.of(
            f"{field}.shape", f"{list(shape)} came; image files are [images] or [images, 1], at least one"
        )
    files = _typed(tensor, "bytes_contents", field) if raw is None else _split(raw, shape[0])
    if len(files) != shape[0]:
        place = f"{field}.contents.bytes_contents" if raw is None else "raw_input_contents[0]"
        raise InvalidRequestError.of(place, f"{len(files)} elements came; shape {list(shape)} takes {shape[0]}")
    return list(files)


def write_numbers(values: npt.NDArray[np.float32]) -> bytes:
    """Raw bytes of an array."""
    return values.astype(_FLOAT, copy=False).tobytes()


def write_strings(values: Sequence[bytes]) -> bytes:
    """Raw bytes of BYTES elements: each after its length."""
    return b"".join(len(value).to_bytes(_LENGTH_BYTES, "little") + value for value in values)


def _typed(tensor: Tensor, contents: str, field: str) -> Sequence[Any]:
    """The typed field of a tensor; the only one that may be set."""
    if not contents:
        raise InvalidRequestError.of(f"{field}.contents", f"{tensor.datatype} has no typed field; send it raw")
    present = [descriptor.name for descriptor, _ in tensor.contents.ListFields()]
    if present != [contents]:
        raise InvalidRequestError.of(
            f"{field}.contents",
            f"{' and '.join(present) or 'nothing'} came; {tensor.datatype} is sent in {contents}, or raw",
        )
    values: Sequence[Any] = getattr(tensor.contents, contents)
    return values


def _split(raw: bytes, count: int) -> list[bytes]:
    """Cut raw BYTES elements apart; at most one more than `count`."""
    elements: list[bytes] = []
    at = 0
    while at < len(raw) and len(elements) <= count:
        length = int.from_bytes(raw[at : at + _LENGTH_BYTES], "little")
        begin, at = at + _LENGTH_BYTES, at + _LENGTH_BYTES + length
        if at > len(raw):
            raise InvalidRequestError.of(
                "raw_input_contents[0]",
                f"element {len(elements)} is said to have {length} bytes, and {max(len(raw) - begin, 0)} are left;"
                " each element follows its length, 4 bytes little-endian",
            )
        elements.append(raw[begin:at])
    return elements
