"""Numbers of any type to pixels: the one rule that all dialects share.

Models take uint8 pixels, 0..255. Other types are accepted when it is plain what they mean:

- Range `0-255`, the default: every value is a whole number from 0 to 255, whatever its type. Pixels in 0..1 that were
  sent by mistake have fractions, and are refused instead of looking like black images.
- Range `0-1`, for floating-point types: every value is from 0 to 1, and is multiplied by 255 and rounded to the nearest
  whole number (half to even).

NaN, infinities and values outside the range are refused. Nothing is clipped.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from convserve.arrays import Images
from convserve.errors import InvalidRequestError

BYTE_RANGE = "0-255"
UNIT_RANGE = "0-1"
RANGES = (BYTE_RANGE, UNIT_RANGE)


def to_pixels(values: npt.NDArray[Any], pixel_range: str, field: str) -> Images:
    """Turn numbers into uint8 of the same shape; uint8 comes out as it is, without a copy.

    Args:
        values: integers or floating-point numbers.
        pixel_range: one of `RANGES`.
        field: where the values lie in the request, for errors.

    Raises:
        InvalidRequestError: a value is no pixel by the rule above; names its position and the rule.
    """
    if pixel_range == UNIT_RANGE:
        return _from_unit(values, field)
    if values.dtype == np.uint8:
        return values
    with np.errstate(invalid="ignore"):
        pixels = values.astype(np.uint8)
    if (pixels == values).all():  # what is no pixel cannot come back from a byte as it was
        return pixels
    _check_range(values, 255, field, f"pixels are whole numbers from 0 to 255 in pixel_range {BYTE_RANGE!r}")
    if values.dtype.kind == "f":
        hint = f"; is pixel_range {UNIT_RANGE!r} meant?" if values.max(initial=0) <= 1 else "; round them first"
        _refuse(values, pixels == values, field, f"pixels are whole numbers in pixel_range {BYTE_RANGE!r}{hint}")
    return pixels


def _from_unit(values: npt.NDArray[Any], field: str) -> Images:
    if values.dtype.kind != "f":
        raise InvalidRequestError.of(
            field, f"holds {values.dtype}; pixel_range {UNIT_RANGE!r} is for floating-point types only"
        )
    _check_range(values, 1, field, f"pixels are from 0 to 1 in pixel_range {UNIT_RANGE!r}")
    wide = values.astype(np.float32) if values.dtype == np.float16 else values
    pixels: Images = np.rint(wide * 255).astype(np.uint8)
    return pixels


def _check_range(values: npt.NDArray[Any], top: int, field: str, rule: str) -> None:
    _refuse(values, (values >= 0) & (values <= top), field, rule)  # NaN is neither


def _refuse(values: npt.NDArray[Any], good: npt.NDArray[np.bool_], field: str, rule: str) -> None:
    """Refuse the first value that is not good."""
    if good.all():
        return
    position = [int(index) for index in np.unravel_index(good.argmin(), good.shape)]  # without a list of all of them
    raise InvalidRequestError.of(field, f"{values[tuple(position)]} came at {position}; {rule}")
