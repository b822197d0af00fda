"""Shapes in messages, which hold millions of dimensions as easily as four."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from convserve.errors import InvalidRequestError

D = TypeVar("D")

_MOST = 8
"""Dimensions that are read, and may be quoted. No tensor here has more than four."""


def read(dimensions: Sequence[D], field: str) -> tuple[D, ...]:
    """Read the dimensions of a shape.

    Raises:
        InvalidRequestError: there are more than any tensor here has: they are counted, and not read, for that would
            stop every other call for seconds.
    """
    if len(dimensions) > _MOST:
        raise InvalidRequestError.of(
            field, f"{len(dimensions)} dimensions came; pixels have four, and image files one or two"
        )
    return tuple(dimensions)
