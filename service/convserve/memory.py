"""Memory that is free but not given back, and objects that are looked at though they stay."""

from __future__ import annotations

import ctypes
import gc

_M_ARENA_MAX = -8
_ARENAS = 2
_M_MMAP_THRESHOLD = -3
_LARGE_BYTES = 4 * 2**20
_M_TRIM_THRESHOLD = -1
_KEPT_BYTES = 32 * 2**20


def limit_arenas() -> None:
    """Let all threads share two heaps, and keep what is large out of them. For the start of a process without threads.

    glibc gives nearly every thread a heap of its own, and each keeps what the largest version that was ever loaded
    there took: with versions coming and going, a process grew from 120 to 230 MB. What is large is mapped and unmapped
    by itself, but glibc raises its idea of large to what was freed last, up to 32 MiB; then the 20 MB that proving a
    version in batches of 64 takes come from a heap, and when that was a thread's, `give_back` does not reach them. Who
    sets that bound has to set the other one too: how much stays at the end of the heap, for the next request.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, _ARENAS)
        mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES)
        mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)


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
