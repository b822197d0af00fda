"""Which version answers: aliases, a deterministic split, and a shadow that is compared. Pure.

The default version is the one that the alias `stable` stands for, else the highest available. A split sends a share of
the requests that name no version to an alias; which ones follows from the request's id alone, so that a retry, or the
same user with the same id, meets the same version on every worker and after every restart.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Container, Mapping
from dataclasses import dataclass, field

STABLE = "stable"
_ALIAS = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}")


@dataclass(frozen=True)
class Routes:
    """Where the requests of one model go."""

    aliases: Mapping[str, int] = field(default_factory=dict)
    """Version by alias."""
    split: Mapping[str, float] = field(default_factory=dict)
    """Percent of the requests without a version, by alias; the rest goes to the default."""
    shadow: str = ""
    """Alias of the version that answers a copy of such requests, for comparison only; empty: none."""
    shadow_percent: float = 100.0
    """Percent of the requests that are copied."""


def default_version(routes: Routes, available: Container[int], highest: int) -> int:
    """The version for requests that name none and are not split off; 0 when nothing is available."""
    stable = routes.aliases.get(STABLE, 0)
    return stable if stable in available else highest


def split_version(routes: Routes, model: str, request_id: str, available: Container[int]) -> int | None:
    """The version this request is split off to, or None. A version that is not available gets nothing."""
    if not routes.split:
        return None
    point = _percentile(model, request_id)
    reached = 0.0
    for alias, percent in sorted(routes.split.items()):
        reached += percent
        if point < reached:
            version = routes.aliases.get(alias)
            return version if version in available else None
    return None


def shadow_version(routes: Routes, model: str, request_id: str, available: Container[int]) -> int | None:
    """The version that gets a copy of this request, or None."""
    version = routes.aliases.get(routes.shadow)
    if version is None or version not in available:
        return None
    return version if _percentile(model + "/shadow", request_id) < routes.shadow_percent else None


def check_alias(name: str) -> None:
    """Refuse an alias that could be taken for something else.

    Raises:
        ValueError: it is not a letter followed by letters, digits, '-' and '_'.
    """
    if not _ALIAS.fullmatch(name):
        raise ValueError(f"alias is {name!r}; it must be a letter, then letters, digits, '-' and '_', 64 at most")


def _percentile(salt: str, request_id: str) -> float:
    """A number from 0 to 100 that follows from the id alone, evenly spread."""
    digest = hashlib.blake2b(request_id.encode(), key=salt.encode()[:64], digest_size=8).digest()
    return int.from_bytes(digest) / 2**64 * 100
