"""The versions that are loaded, behind counted handles, and the state of every version ever seen."""

from __future__ import annotations

import operator
import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from convserve.batching import Batcher, Outputs
from convserve.clock import monotonic
from convserve.drift import Drift
from convserve.errors import NotFoundError, UnavailableError, VersionNotAvailableError
from convserve.lifecycle import VersionState
from convserve.manifest import Manifest
from convserve.routing import Routes, default_version, shadow_version, split_version
from convserve.runtimes import Runtime
from convserve.statistics import Statistics


@dataclass(frozen=True)
class VersionStatus:
    """What is known of a version, for people and for policy."""

    state: VersionState
    reason: str = ""
    fingerprint: str = ""
    manifest: Manifest | None = None
    digest: str = ""
    provider: str = ""
    max_batch_size: int = 0


def _ignore(error: BaseException) -> None:
    """Nobody counts refusals."""


class LoadedVersion:
    """A proved version that computes. Borrowed for each request; unloads only when the last borrower is back."""

    def __init__(
        self,
        manifest: Manifest,
        digest: str,
        runtime: Runtime,
        batcher: Batcher,
        *,
        max_rows: int,
        drift: Drift,
        compared: Callable[[int, Outputs, Outputs], None],
        refused: Callable[[BaseException], None] = _ignore,
        statistics: Statistics | None = None,
    ) -> None:
        """Bind what belongs together.

        Args:
            manifest: what the version is.
            digest: SHA-256 of the manifest, in hexadecimal digits.
            runtime: what computes.
            batcher: how requests reach it.
            max_rows: the most images one request may bring.
            drift: told every answered request.
            compared: told a shadow version's number, this version's outputs, and the shadow's for the same images.
            refused: told every error that kept a request from being queued.
            statistics: told every batch already; told every request here. None: new ones.
        """
        self.manifest = manifest
        self.digest = digest
        self.runtime = runtime
        self.batcher = batcher
        self.max_rows = max_rows
        self.drift = drift
        self.compared = compared
        self.refused = refused
        self.statistics = statistics or Statistics()
        self.derived: dict[type, Any] = {}
        """What was worked out from the version and is worth keeping as long as it lives, by type."""
        self._users = 0
        self._lock = threading.Lock()  # a plain one: it is taken twice for each request
        self._unused = threading.Condition(self._lock)

    @property
    def label(self) -> str:
        """`mnist version 4`, for sentences."""
        return f"{self.manifest.model} version {self.manifest.version}"

    @property
    def users(self) -> int:
        """Handles that are out."""
        return self._users

    def acquire(self) -> None:
        """Count a borrower. Called by the registry while the version can still be found in it."""
        with self._lock:
            self._users += 1

    def release(self) -> None:
        """Take a borrower's handle back."""
        with self._lock:
            self._users -= 1
            if not self._users:
                self._unused.notify_all()

    def unload(self, grace_seconds: float) -> int:
        """Finish accepted requests, then free everything. Returns how many requests had to be refused.

        The registry must not hand the version out any more.
        """
        give_up = monotonic() + grace_seconds
        self.batcher.drain()
        with self._unused:  # who was handed the version, and decodes his images still, has a right to his answer
            self._unused.wait_for(lambda: not self._users, timeout=grace_seconds)
        refused = self.batcher.close(max(give_up - monotonic(), 0.0))
        with self._unused:
            self._unused.wait_for(lambda: not self._users, timeout=grace_seconds)
        self.runtime.close()
        return refused


@dataclass
class _Model:
    statuses: dict[int, VersionStatus] = field(default_factory=dict)
    loaded: dict[int, LoadedVersion] = field(default_factory=dict)
    routes: Routes = field(default_factory=Routes)
    default: int = 0
    """The version for requests that name none; 0: there is none."""

    def settle(self) -> None:
        """Find the default again, after a change of what is loaded or of the routes."""
        self.default = default_version(self.routes, self.loaded, max(self.loaded, default=0))


class Registry:
    """All models by name. Thread-safe; nothing in it waits."""

    def __init__(self) -> None:
        """Make an empty registry."""
        self._lock = threading.Lock()
        self._models: dict[str, _Model] = {}
        self._published: weakref.WeakSet[LoadedVersion] = weakref.WeakSet()
        """Those that were withdrawn too, for as long as they live: one may not come to its end."""

    def models(self) -> dict[str, dict[int, VersionStatus]]:
        """State of every version of every model."""
        with self._lock:
            return {name: dict(model.statuses) for name, model in sorted(self._models.items())}

    def loaded(self) -> list[LoadedVersion]:
        """Every version that answers requests now."""
        with self._lock:
            return [version for model in self._models.values() for version in model.loaded.values()]

    def longest_run(self) -> tuple[str, float]:
        """The version whose oldest running batch has been running longest, and for how many seconds.

        Versions that drain count too. With no batch running the seconds are 0.
        """
        with self._lock:
            runs = [(version.label, version.batcher.longest_run) for version in self._published]
        return max(runs, key=operator.itemgetter(1), default=("", 0.0))

    def add_model(self, name: str) -> None:
        """Make a model known, with or without versions."""
        with self._lock:
            self._models.setdefault(name, _Model())

    def has_model(self, name: str) -> bool:
        """Whether the name is a model's; metric labels may only hold such names."""
        return name in self._models

    def default_version(self, name: str) -> int:
        """The version that answers when none is named; 0 when there is none."""
        with self._lock:
            model = self._models.get(name)
            return model.default if model else 0

    def routes(self, name: str) -> Routes:
        """Aliases, split and shadow of a model."""
        with self._lock:
            model = self._models.get(name)
            return model.routes if model else Routes()

    def set_routes(self, name: str, routes: Routes) -> None:
        """Change where requests go, in one step."""
        with self._lock:
            model = self._models.setdefault(name, _Model())
            model.routes = routes
            model.settle()

    def is_loaded(self, name: str, version: int) -> bool:
        """Whether the version answers requests now."""
        with self._lock:
            model = self._models.get(name)
            return model is not None and version in model.loaded

    def note_failed_reload(self, name: str, version: int, failed: VersionStatus) -> None:
        """Note that new content of an available version could not be proved; what was proved before goes on."""
        with self._lock:
            statuses = self._models[name].statuses
            reason = f"still serving what was proved before; the new content failed: {failed.reason}"
            statuses[version] = replace(statuses[version], fingerprint=failed.fingerprint, reason=reason)

    def set_status(self, name: str, version: int, status: VersionStatus) -> None:
        """Note what is known of a version, other than that it became available."""
        with self._lock:
            self._models.setdefault(name, _Model()).statuses[version] = status

    def publish(self, loaded: LoadedVersion, status: VersionStatus) -> LoadedVersion | None:
        """Make a proved version available, in one step. Returns the one of the same number that it replaces."""
        name, version = loaded.manifest.model, loaded.manifest.version
        with self._lock:
            model = self._models.setdefault(name, _Model())
            previous = model.loaded.get(version)
            model.loaded[version] = loaded
            self._published.add(loaded)
            model.settle()
            model.statuses[version] = replace(status, state=VersionState.AVAILABLE, reason="")
            return previous

    def withdraw(self, name: str, version: int) -> LoadedVersion | None:
        """Give a version no new requests; it is draining from here on. Returns it, or None if it was not loaded."""
        with self._lock:
            model = self._models.get(name)
            loaded = model.loaded.pop(version, None) if model else None
            if model and loaded:
                model.settle()
                model.statuses[version] = replace(model.statuses[version], state=VersionState.DRAINING)
            return loaded

    def borrow(self, name: str, version: int | None, alias: str = "", request_id: str = "") -> LoadedVersion:
        """Take a handle on the version that answers; give it back with `release`.

        Args:
            name: the model.
            version: its number, or None.
            alias: instead of a number; empty: none.
            request_id: decides about a split when neither number nor alias is given.

        Raises:
            NotFoundError: there is no such model, version or alias.
            VersionNotAvailableError: the version exists and cannot answer.
            UnavailableError: no version of the model is available yet.
        """
        with self._lock:
            model = self._models.get(name)
            if model is None:
                known = ", ".join(sorted(self._models)) or "none"
                raise NotFoundError(f"model {name!r} does not exist; the models here are: {known}")
            if alias:
                if alias not in model.routes.aliases:
                    known = ", ".join(sorted(model.routes.aliases)) or "none"
                    raise NotFoundError(f"model {name!r} has no alias {alias!r}; its aliases are: {known}")
                version = model.routes.aliases[alias]
            elif version is None:
                version = model.default
                if model.routes.split:
                    version = split_version(model.routes, name, request_id, model.loaded) or version
                if not version:
                    raise _no_version(name, model)
            loaded = model.loaded.get(version)
            if loaded is None:
                raise _not_available(name, version, model)
            loaded.acquire()
            return loaded

    def borrow_shadow(self, answering: LoadedVersion, request_id: str) -> LoadedVersion | None:
        """Take a handle on the version that a copy of this request goes to, if there is one."""
        name = answering.manifest.model
        model = self._models.get(name)
        if model is None or not model.routes.shadow:  # nearly always
            return None
        with self._lock:
            version = shadow_version(model.routes, name, request_id, model.loaded)
            if version is None or version == answering.manifest.version:
                return None
            loaded = model.loaded[version]
            loaded.acquire()
            return loaded


def _no_version(name: str, model: _Model) -> Exception:
    states = {version: status.state.value for version, status in sorted(model.statuses.items())}
    if any(status.state in (VersionState.LOADING, VersionState.WARMING) for status in model.statuses.values()):
        return UnavailableError(f"model {name!r} is still loading; try again")
    return VersionNotAvailableError(f"model {name!r} has no available version; its versions are {states or 'none'}")


def _not_available(name: str, version: int, model: _Model) -> Exception:
    status = model.statuses.get(version)
    if status is None:
        known = ", ".join(map(str, sorted(model.statuses))) or "none"
        return NotFoundError(f"model {name!r} has no version {version}; its versions are: {known}")
    why = f": {status.reason}" if status.reason else ""
    return VersionNotAvailableError(f"{name} version {version} is {status.state.value}{why}")
