"""Which numbers are pixels."""

from __future__ import annotations

import numpy as np
import pytest

from convserve.errors import InvalidRequestError
from convserve.server.pixels import to_pixels

ALL = np.arange(256)
INTEGERS = ["int16", "int32", "int64", "uint16", "uint32", "uint64"]
FLOATS = ["float16", "float32", "float64"]


@pytest.mark.parametrize("dtype", [*INTEGERS, *FLOATS])
def test_whole_numbers_of_every_type_are_pixels(dtype: str) -> None:
    """Each of the 256 values comes through."""
    pixels = to_pixels(ALL.astype(dtype), "0-255", "x")
    assert pixels.dtype == np.uint8
    assert (pixels == ALL).all()


def test_bytes_are_not_copied() -> None:
    """Packed pixels are viewed where the message holds them."""
    values = ALL.astype(np.uint8)
    assert to_pixels(values, "0-255", "x") is values


@pytest.mark.parametrize("dtype", FLOATS)
def test_fractions_of_255_come_back_exactly(dtype: str) -> None:
    """Each value / 255 in any precision is the same pixel in range 0-1."""
    assert (to_pixels((ALL / 255).astype(dtype), "0-1", "x") == ALL).all()


@pytest.mark.parametrize(
    ("values", "pixel_range", "message"),
    [
        ([0.5, 1.0], "0-255", "0.5 came at \\[0\\].*is pixel_range '0-1' meant"),
        ([3.0, 7.25], "0-255", "7.25 came at \\[1\\].*round them first"),
        ([256.0], "0-255", "256.0 came"),
        ([-1.0], "0-255", "-1.0 came"),
        ([float("nan")], "0-255", "nan came"),
        ([float("inf")], "0-255", "inf came"),
        ([1.01], "0-1", "1.01 came"),
        ([-0.01], "0-1", "-0.01 came"),
        ([float("nan")], "0-1", "nan came"),
        ([256], "0-255", "256 came"),
        ([-1], "0-255", "-1 came"),
        ([1], "0-1", "holds int64"),
    ],
)
def test_everything_else_is_refused(values: list[float], pixel_range: str, message: str) -> None:
    """With the value, its position and the rule."""
    with pytest.raises(InvalidRequestError, match=message):
        to_pixels(np.array(values), pixel_range, "x")


def test_uint8_is_never_in_the_unit_range() -> None:
    """Only 0 and 1 would be possible."""
    with pytest.raises(InvalidRequestError, match="floating-point"):
        to_pixels(np.zeros(1, np.uint8), "0-1", "x")
