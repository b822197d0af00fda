"""The IDX format of MNIST: a magic number, the sizes, then the bytes.

Source: "The IDX file format", http://yann.lecun.com/exdb/mnist/.
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt

from convtrain.errors import DatasetError

UNSIGNED_BYTE = 0x08


def read(path: Path, dimensions: int) -> npt.NDArray[np.uint8]:
    """Read an IDX file of unsigned bytes, gzipped when its name ends in `.gz`.

    Raises:
        DatasetError: it cannot be read, is cut short or too long, or is not an IDX file with so many dimensions.
    """
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise DatasetError(f"{path}: cannot be read, the file is damaged or cut short ({error})") from error
    return parse(content, dimensions, str(path))


def parse(content: bytes, dimensions: int, source: str) -> npt.NDArray[np.uint8]:
    """Take the array out of the content of an IDX file.

    Raises:
        DatasetError: it is cut short or too long, or is not an IDX file with so many dimensions; names `source`.
    """
    header_bytes = 4 + 4 * dimensions
    if len(content) < header_bytes:
        raise DatasetError(f"{source}: {len(content)} bytes, shorter than the header of an IDX file")
    if content[:4] != bytes((0, 0, UNSIGNED_BYTE, dimensions)):
        raise DatasetError(
            f"{source}: begins with {content[:4].hex()}, an IDX file of {dimensions} dimensions with "
            f"{bytes((0, 0, UNSIGNED_BYTE, dimensions)).hex()}"
        )
    shape = struct.unpack(f">{dimensions}I", content[4:header_bytes])
    expected = math.prod(shape)
    if len(content) - header_bytes != expected:
        raise DatasetError(
            f"{source}: holds {len(content) - header_bytes} bytes of data, its header announces "
            f"{'×'.join(map(str, shape))} = {expected}"
        )
    return np.frombuffer(content, np.uint8, offset=header_bytes).reshape(shape)


def pack(array: npt.NDArray[np.uint8]) -> bytes:
    """Make the content of the IDX file that holds `array`."""
    header = bytes((0, 0, UNSIGNED_BYTE, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape)
    return header + array.tobytes()
