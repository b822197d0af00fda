r"""Which version comes next: pure policy, without files, threads or clocks.

::

    (found on disk) -> LOADING -> WARMING -> AVAILABLE -> DRAINING -> UNLOADED
                          \\__________/ \\-> FAILED (stays listed with its reason; never serves)

Guarantees: a wanted version is proved before the one it replaces stops; when it fails, the old one stays, or, where
there is none, the next older one is proved; the last available version of a model is never stopped because of what lies
on disk.
"""

from __future__ import annotations

import enum
from collections.abc import Container, Iterable, Mapping
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

    The `latest` highest ones that can be proved; or all; or exactly the `specific` ones that exist. `pinned` ones are
    wanted besides.
    """

    latest: int = 1
    all: bool = False
    specific: tuple[int, ...] = ()
    pinned: frozenset[int] = frozenset()
    """Versions that an alias stands for, or that an administrator loaded."""
    held: frozenset[int] = frozenset()
    """Versions that an administrator unloaded: never wanted."""

    @classmethod
    def parse(cls, text: str) -> VersionPolicy:
        """Read `latest`, `latest:N`, `all` or `specific:N,N`.

        Raises:
            ValueError: it is none of these.
        """
        kind, _, rest = text.partition(":")
        numbers = rest.split(",") if rest else []
        if all_positive := all(number.isdecimal() and int(number) > 0 for number in numbers):
            if text == "all":
                return cls(all=True)
            if kind == "latest" and len(numbers) <= 1:
                return cls(latest=int(numbers[0]) if numbers else 1)
            if kind == "specific" and numbers:
                return cls(specific=tuple(map(int, numbers)))
        raise ValueError(
            f"version_policy is {text!r}; it must be latest, latest:N, all or specific:N,N"
            + ("" if all_positive else ", each N a positive number")
        )

    def wanted(self, found: Iterable[int], broken: Container[int] = ()) -> list[int]:
        """The versions wanted, highest first.

        For each of the `broken` ones, which failed as they lie there, `latest` wants the next older one instead.
        """
        versions = sorted((version for version in found if version not in self.held), reverse=True)
        if self.specific:
            chosen = [version for version in versions if version in self.specific]
        elif self.all:
            chosen = versions
        else:
            chosen = [version for version in versions if version not in broken][: self.latest]
        return [version for version in versions if version in chosen or version in self.pinned]


@dataclass(frozen=True)
class Wishes:
    """What administrators have asked for of one model while the server ran."""

    pinned: frozenset[int]
    """Versions to be loaded whatever the policy says."""
    held: frozenset[int]
    """Versions not to be loaded whatever the policy says."""
    aliases: Mapping[str, int]
    """Version by alias, those from the settings included."""


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


def broken(found: Mapping[int, str], known: Mapping[int, Known]) -> set[int]:
    """The versions that failed and have not changed since."""
    return {
        version
        for version, entry in known.items()
        if entry.state is VersionState.FAILED and entry.fingerprint == found.get(version)
    }


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
    wanted = policy.wanted(found, broken(found, known))
    for version in wanted:
        before = known.get(version)
        settled = before is not None and before.state in (VersionState.AVAILABLE, VersionState.FAILED)
        if before is None or not settled or before.fingerprint != found[version]:
            return Load(version)
    available = [version for version, entry in known.items() if entry.state is VersionState.AVAILABLE]
    replaced = any(version in available for version in wanted)
    for version in sorted(available):
        if version not in wanted and replaced:
            return Unload(version)
    return None
