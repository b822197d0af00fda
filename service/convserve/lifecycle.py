r"""Which version comes next: pure policy, without files, threads or clocks.

::

    (found on disk) -> LOADING -> WARMING -> AVAILABLE -> DRAINING -> UNLOADED
                          \\__________/ \\-> FAILED (stays listed with its reason; never serves)

Guarantees: a wanted version is proved before the one it replaces stops; when it fails, the old one stays; the last
available version of a model is never stopped because of what lies on disk.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from dataclasses import dataclass


class VersionState(enum.Enum):
    """Where a version is in its life."""

    LOADING = "loading"
    """Files are being checked and the runtime is being built."""
    WARMING = "warming"
    """Golden inputs are replayed and batch sizes are warmed."""
    AVAILABLE = "available"
    """Proved; answers requests."""
    DRAINING = "draining"
    """Takes no new requests; finishes those it has."""
    UNLOADED = "unloaded"
    """Served before, or not wanted by the policy."""
    FAILED = "failed"
    """Could not be proved; the reason says why."""


@dataclass(frozen=True)
class VersionPolicy:
    """Which of the versions found are wanted.

    `latest` highest ones; or all; or exactly the `specific` ones that exist.
    """

    latest: int = 1
    all: bool = False
    specific: tuple[int, ...] = ()

    def wanted(self, found: Iterable[int]) -> list[int]:
        """The versions wanted, highest first."""
        versions = sorted(found, reverse=True)
        if self.specific:
            return [version for version in versions if version in self.specific]
        return versions if self.all else versions[: self.latest]


@dataclass(frozen=True)
class Known:
    """What is known of a version that was seen before."""

    state: VersionState
    fingerprint: str
    """Stands for the content that was loaded, or that failed to."""


@dataclass(frozen=True)
class Load:
    """Prove this version and make it available; it may replace an available one of the same number."""

    version: int


@dataclass(frozen=True)
class Unload:
    """Stop giving this version requests, finish what it has, free it."""

    version: int


def next_action(found: Mapping[int, str], known: Mapping[int, Known], policy: VersionPolicy) -> Load | Unload | None:
    """Decide the next step for one model.

    Args:
        found: fingerprint of each version on disk.
        known: versions seen before.
        policy: which versions are wanted.

    Returns:
        One step, or None when everything is as wanted (or a step is under way already).
    """
    if any(entry.state in (VersionState.LOADING, VersionState.WARMING) for entry in known.values()):
        return None
    wanted = policy.wanted(found)
    for version in wanted:
        before = known.get(version)
        settled = before is not None and before.state in (VersionState.AVAILABLE, VersionState.FAILED)
        if before is None or not settled or before.fingerprint != found[version]:
            return Load(version)
    available = [version for version, entry in known.items() if entry.state is VersionState.AVAILABLE]
    replaced = any(version in available for version in wanted)
    failed = any(known[version].state is VersionState.FAILED for version in wanted)
    for version in sorted(available):
        if version not in wanted and replaced and not failed:
            return Unload(version)
    return None
