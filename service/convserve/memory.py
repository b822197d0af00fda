"""Memory that is free but not given back, and objects that are looked at though they stay."""

from __future__ import annotations

import ctypes
import gc


def give_back() -> None:
    """Return free memory to the system: glibc keeps what loading a version passed through the heap."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def settle() -> None:
    """Leave what lives now out of later searches for garbage, which would hold requests up. For the end of start-up."""
    gc.collect()
    gc.freeze()
    give_back()
