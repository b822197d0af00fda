"""The totals of every version over all workers: each tells its own share, and whoever is asked adds them up.

Shares travel as bytes, so that the supervisor, which only passes them on, needs none of the modules that made them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeAlias

import msgspec

from convserve.registry import Registry
from convserve.statistics import Totals

Key: TypeAlias = tuple[str, int]
"""Model and number of the version."""

ReadTotals: TypeAlias = Callable[[], dict[Key, Totals]]
"""Tells the totals of the versions that answer now."""


def local(registry: Registry) -> dict[Key, Totals]:
    """The totals of this process."""
    return {(one.manifest.model, one.manifest.version): one.statistics.totals() for one in registry.loaded()}


def share(registry: Registry) -> bytes:
    """The totals of this process, to be sent."""
    return msgspec.msgpack.encode([(*key, totals) for key, totals in local(registry).items()])


def add_up(shares: Iterable[bytes]) -> dict[Key, Totals]:
    """The totals of all processes whose shares these are."""
    found: dict[Key, Totals] = {}
    for one in shares:
        for model, version, totals in msgspec.msgpack.decode(one, type=list[tuple[str, int, Totals]]):
            found.setdefault((model, version), Totals()).add(totals)
    return found
