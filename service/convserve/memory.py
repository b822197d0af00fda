"""Memory that is free but not given back, and objects that are looked at though they stay."""

from __future__ import annotations

import ctypes
import gc

_M_ARENA_MAX = -8
_ARENAS = 2


def limit_arenas() -> None:
    """Let all threads share two heaps. For the start of a process, before it has threads.

    glibc gives nearly every thread a heap of its own, and each keeps what the largest version that was ever loaded
    there took: with versions coming and going, a process grew from 120 to 230 MB.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, _ARENAS)


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
