"""The pickles inside CIFAR-10's python archive, read without trusting them.

A pickle is a program. These need nothing but lists, dicts, bytes and one kind of NumPy array, so that is all the reader
knows; anything else in the file is an error and nothing of it runs.
"""

from __future__ import annotations

import io
import pickle
from typing import Any

import numpy as np
import numpy.typing as npt

from convtrain.errors import DatasetError


def read(content: bytes, source: str) -> tuple[npt.NDArray[np.uint8], list[int]]:
    """Read one batch. Returns the rows, uint8 [N, 3072] (red, green, blue plane of 32×32 each), and N labels.

    Raises:
        DatasetError: it is damaged, is not a batch, or asks for more than plain data; names `source`.
    """
    try:
        batch = _PlainDataUnpickler(io.BytesIO(content), encoding="bytes").load()
    except DatasetError as error:
        raise DatasetError(f"{source}: {error}") from error
    except Exception as error:  # damaged pickles raise nearly anything
        raise DatasetError(f"{source}: not a readable pickle, damaged or cut short ({error})") from error
    if not isinstance(batch, dict) or b"data" not in batch or b"labels" not in batch:
        raise DatasetError(f"{source}: not a batch of CIFAR-10; wanted is a dict with `data` and `labels`")
    data, labels = batch[b"data"], batch[b"labels"]
    if not isinstance(data, _Array) or data.rows.ndim != 2 or data.rows.shape[1] != 3072:
        raise DatasetError(f"{source}: `data` is not an array of uint8 with rows of 3072 bytes")
    if not isinstance(labels, list) or not all(isinstance(label, int) for label in labels):
        raise DatasetError(f"{source}: `labels` is not a list of integers")
    if len(labels) != len(data.rows):
        raise DatasetError(f"{source}: {len(data.rows)} images and {len(labels)} labels")
    return data.rows, labels


class _Dtype:
    """Stands in for `numpy.dtype`: is uint8, or an error."""

    def __init__(self, code: object, *_: object) -> None:
        if code != b"u1":
            raise DatasetError(f"holds an array of type {code!r}, wanted is u1")

    def __setstate__(self, _: object) -> None:
        """Take the rest, which says nothing about single bytes."""


class _Array:
    """Stands in for an array of NumPy, whose own way to be unpickled takes the file's word for sizes and types."""

    def __init__(self, *_: object) -> None:
        self.rows: npt.NDArray[np.uint8] = np.empty(0, np.uint8)

    def __setstate__(self, state: tuple[object, tuple[int, ...], object, bool, bytes]) -> None:
        """Take the content: (version, shape, type, whether columns come first, bytes)."""
        _, shape, _, columns_first, content = state
        self.rows = np.frombuffer(content, np.uint8).reshape(shape, order="F" if columns_first else "C")


class _PlainDataUnpickler(pickle.Unpickler):
    """Resolves the three names that a uint8 array needs, and no other."""

    def find_class(self, module: str, name: str) -> Any:
        """Return the stand-in for a name in the pickle."""
        if module in ("numpy.core.multiarray", "numpy._core.multiarray") and name == "_reconstruct":
            return _Array
        if module == "numpy" and name in ("ndarray", "dtype"):
            return _Dtype if name == "dtype" else _Array
        raise DatasetError(f"asks for {module}.{name}; a batch of CIFAR-10 holds plain data only")
