"""Brings the registry to what the repository and the policy want: loads, proves, swaps and unloads versions."""

from __future__ import annotations

import os
import threading
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import structlog

from convserve import manifest as manifests
from convserve import memory, repository
from convserve.clock import monotonic
from convserve.config import Settings
from convserve.errors import (
    ArtifactError,
    ConfigError,
    InvalidRequestError,
    NotFoundError,
    RuntimeNotInstalledError,
    UnavailableError,
    VersionNotAvailableError,
)
from convserve.lifecycle import Known, Load, VersionPolicy, VersionState, Wishes, broken, next_action
from convserve.loading import Loader
from convserve.metrics import Metrics
from convserve.registry import Registry, VersionStatus
from convserve.repository import FoundVersion
from convserve.routing import Routes, check_alias

_RETRY_SECONDS = 15.0
"""How soon a version that failed is tried again as it is; each time twice as long."""
_RETRY_AT_MOST_SECONDS = 600.0

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class _Retry:
    """When a version that failed is tried again, though its manifest has not changed.

    A file may have arrived after the manifest, the file system may answer again, a device may have memory again.
    """

    fingerprint: str
    delay: float
    at: float


class Manager:
    """Owns the life of every version. Thread-safe: what changes versions takes turns, and can take seconds."""

    def __init__(self, settings: Settings, registry: Registry, metrics: Metrics, intra_op_threads: int) -> None:
        """Manage the versions below `settings.model_repository`; `intra_op_threads` compute one batch."""
        self._settings = settings
        self._registry = registry
        self._metrics = metrics
        self._loader = Loader(settings, metrics, intra_op_threads)
        self._turn = threading.RLock()
        self._pinned: defaultdict[str, set[int]] = defaultdict(set)
        self._held: defaultdict[str, set[int]] = defaultdict(set)
        self._retries: dict[tuple[str, int], _Retry] = {}
        self._stopping = threading.Event()
        self.on_change: Callable[[], None] = lambda: None
        """Called whenever a version became available or was unloaded."""
        self._watcher = threading.Thread(target=self._watch, name="versions", daemon=True)

    def start_watching(self) -> None:
        """Look at the repository every `repository_poll_interval` seconds from now on."""
        if self._settings.repository_poll_interval > 0:
            self._watcher.start()

    def load(self, model: str, version: int) -> int:
        """Load a version whatever the policy says, and keep it until it is unloaded; 0: the highest there is.

        Returns the version. One that cannot be loaded is wanted no more than before.

        Raises:
            NotFoundError: the repository has no such version.
            VersionNotAvailableError: it could not be proved; says why.
            UnavailableError: the manager was closed.
        """
        with self._turn:
            found = repository.scan(self._settings.model_repository).get(model, {})
            version = version or max(found, default=0)
            if version not in found:
                known = ", ".join(map(str, sorted(found))) or "none"
                raise NotFoundError(f"the repository has no version {version} of {model!r}; it has: {known}")
            self._introduce(model)
            before = self._pinned[model].copy(), self._held[model].copy()
            self._held[model].discard(version)
            self._pinned[model].add(version)
            self._forget_failure(model, version)
            self._settle(model, found)
            if self._stopping.is_set():
                raise UnavailableError("the server is shutting down; try another one")
            status = self._registry.models()[model][version]
            if status.state is not VersionState.AVAILABLE:
                self._pinned[model], self._held[model] = before
                raise VersionNotAvailableError(f"{model} version {version} is {status.state.value}: {status.reason}")
            return version

    def unload(self, model: str, version: int) -> tuple[list[int], int]:
        """Unload a version, 0: all, and keep it so until it is loaded again. The policy may bring an older one instead.

        Returns the versions and how many accepted requests had to be refused.

        Raises:
            NotFoundError: there is no such model.
            VersionNotAvailableError: the version is not loaded, or an alias stands for it.
            ConfigError: the repository cannot be read; nothing was unloaded.
        """
        with self._turn:
            if not self._registry.has_model(model):
                raise NotFoundError(f"model {model!r} does not exist")
            loaded = [one.manifest.version for one in self._registry.loaded() if one.manifest.model == model]
            versions = [version] if version else loaded
            if not set(versions) <= set(loaded) or not versions:
                raise VersionNotAvailableError(
                    f"{model} version {version or 'any'} is not loaded; loaded are: {loaded}"
                )
            if version:
                named = [alias for alias, to in self._registry.routes(model).aliases.items() if to == version]
                if named:
                    raise VersionNotAvailableError(
                        f"{model} version {version} is what the alias {named[0]!r} stands for; move the alias first"
                    )
            found = repository.scan(self._settings.model_repository).get(model, {})
            self._held[model].update(versions)
            if not version:  # or the policy would bring the next older one
                self._held[model].update(found)
            self._pinned[model].difference_update(versions)
            refused = sum(self._unload(model, one) for one in versions)
            self._settle(model, found)  # at once, not at the next look at the repository
            return versions, refused

    def set_alias(self, model: str, alias: str, version: int) -> dict[str, int]:
        """Point an alias at a version, loading it first; 0 removes the alias. Returns all aliases.

        Raises:
            InvalidRequestError: the alias has a wrong form.
            NotFoundError: there is no such model or version.
            VersionNotAvailableError: the version could not be proved.
        """
        try:
            check_alias(alias)
        except ValueError as error:
            raise InvalidRequestError.of("alias", str(error)) from error
        with self._turn:
            if not self._registry.has_model(model):
                raise NotFoundError(f"model {model!r} does not exist")
            pinned = self._pinned[model].copy()
            if version and not self._registry.is_loaded(model, version):
                self.load(model, version)
            routes = self._registry.routes(model)
            aliases = {name: to for name, to in routes.aliases.items() if name != alias}
            if version:
                aliases[alias] = version
            self._registry.set_routes(model, replace(routes, aliases=aliases))
            self._pinned[model] = pinned  # as long as the alias stands for the version, that is reason enough
            log.info("alias set", model=model, alias=alias, version=version)
            return aliases

    def wishes(self) -> dict[str, Wishes]:
        """What administrators have asked for, by model, for a server that should do the same."""
        with self._turn:
            return {
                model: Wishes(
                    frozenset(self._pinned[model]),
                    frozenset(self._held[model]),
                    dict(self._registry.routes(model).aliases),
                )
                for model in self._registry.models()
            }

    def adopt(self, wishes: Mapping[str, Wishes]) -> None:
        """Take over what administrators asked of another server; `reconcile` brings it about.

        Of models that the other server does not know, nobody asked anything.
        """
        with self._turn:
            self._pinned.clear()
            self._held.clear()
            for model, wish in wishes.items():
                self._introduce(model)
                self._pinned[model], self._held[model] = set(wish.pinned), set(wish.held)
                routes = self._registry.routes(model)
                self._registry.set_routes(model, replace(routes, aliases=wish.aliases))

    def follow(self, wishes: Mapping[str, Wishes]) -> None:
        """Take over what administrators asked of another server, and bring it about at once.

        Raises:
            ConfigError: the repository cannot be read.
        """
        with self._turn:
            self.adopt(wishes)
            for model, wish in wishes.items():
                for version in wish.held:
                    self._unload(model, version)
            self.reconcile()

    def _watch(self) -> None:
        while not self._stopping.wait(self._settings.repository_poll_interval):
            try:
                self.reconcile()
            except Exception as error:  # whatever lies in the repository, the server goes on with what it has
                log.error("cannot look at the model repository", reason=str(error), exc_info=error)

    def reconcile(self) -> list[VersionStatus]:
        """Load and unload until nothing is left to do.

        Returns the failures met on the way, without those of versions in whose place `latest` has an older one serve.

        Raises:
            ConfigError: the repository cannot be read.
        """
        failures = []
        with self._turn:
            for model, found in repository.scan(self._settings.model_repository).items():
                self._introduce(model)
                failures += self._settle(model, found)
        return failures

    def _introduce(self, model: str) -> None:
        """Make a model known, with what the settings say of it."""
        if not self._registry.has_model(model):
            self._registry.add_model(model)
            self._metrics.load_failures.labels(model)  # at zero, so that the first one is an increase
            settings = self._settings.for_model(model)
            routes = Routes(settings.aliases, settings.split, settings.shadow, settings.shadow_percent)
            self._registry.set_routes(model, routes)

    def close(self) -> int:
        """Stop watching and unload everything; nothing is loaded any more.

        Returns how many accepted requests had to be refused.
        """
        self._stopping.set()
        with self._turn:
            refused = 0
            for loaded in self._registry.loaded():
                refused += self._unload(loaded.manifest.model, loaded.manifest.version)
        if self._watcher.is_alive():
            self._watcher.join()
        return refused

    def _settle(self, model: str, found: dict[int, FoundVersion]) -> list[VersionStatus]:
        """Load and unload versions of one model until nothing is left to do, or `close` is called.

        Returns failures as `reconcile` does.
        """
        failures: dict[int, VersionStatus] = {}
        decisive = [manifests.MANIFEST_FILE, *([manifests.SIGNATURE_FILE] if self._loader.verifier else [])]
        fingerprints = {version: _fingerprint(entry, decisive) for version, entry in found.items()}
        policy = replace(
            VersionPolicy.parse(self._settings.for_model(model).version_policy),
            pinned=frozenset({*self._pinned[model], *self._registry.routes(model).aliases.values()}),
            held=frozenset(self._held[model]),
        )
        failed = broken(fingerprints, self._known(model))
        for version in self._known(model):
            retry = self._retries.get((model, version))
            due = retry is not None and monotonic() >= retry.at
            if version not in found or (due and version in policy.wanted(found, failed - {version})):
                self._forget_failure(model, version)
        changed = False
        while not self._stopping.is_set() and (action := next_action(fingerprints, self._known(model), policy)):
            changed = True
            if isinstance(action, Load):
                status = self._load(found[action.version], fingerprints[action.version])
                if status.state is VersionState.FAILED:
                    failures[action.version] = status
            else:
                self._unload(model, action.version)
        if changed:
            memory.give_back()
        answering = self._registry.default_version(model)
        if failures and answering:
            log.warning("another version answers", model=model, version=answering, failed=sorted(failures))
        wanted = policy.wanted(found, broken(fingerprints, self._known(model)))
        return [status for version, status in failures.items() if version in wanted or not answering]

    def _forget_failure(self, model: str, version: int) -> None:
        """Let a failed version, or a failed reload, be tried anew, or end its failure when it is gone."""
        status = self._registry.models().get(model, {}).get(version)
        if status is not None and status.state is VersionState.FAILED:
            self._registry.set_status(model, version, replace(status, state=VersionState.UNLOADED))
        elif status is not None and status.state is VersionState.AVAILABLE and status.reason:
            self._registry.set_status(model, version, replace(status, fingerprint=""))

    def _known(self, model: str) -> dict[int, Known]:
        statuses = self._registry.models().get(model, {})
        return {version: Known(status.state, status.fingerprint) for version, status in statuses.items()}

    def _load(self, found: FoundVersion, fingerprint: str) -> VersionStatus:
        """Prove a version and make it available; a version that fails is listed with the reason and never serves."""
        model, version = found.model, found.version
        status = VersionStatus(VersionState.LOADING, fingerprint=fingerprint)
        serving = self._registry.is_loaded(model, version)

        def note(changed: VersionStatus) -> VersionStatus:
            if not serving:  # a reload of the same number keeps answering until the new content is proved
                self._registry.set_status(model, version, changed)
            return changed

        note(status)
        try:
            loaded, status = self._loader.load(found, status, note, in_background=bool(self._registry.loaded()))
        except Exception as error:  # whatever it was, the version must not stay in between, and others go on
            foreseen = isinstance(error, ArtifactError | RuntimeNotInstalledError | ConfigError)
            reason = str(error) if foreseen else f"{found.directory}: {type(error).__name__}: {error}"
            reason = reason.encode(errors="backslashreplace").decode()  # names of files need not be text
            delay = self._retry_later(model, version, fingerprint)
            log.error(
                "version failed", model=model, version=version, reason=reason, retry_in=delay, exc_info=not foreseen
            )
            self._metrics.load_failures.labels(model).inc()
            status = replace(status, state=VersionState.FAILED, reason=reason)
            if serving:
                self._registry.note_failed_reload(model, version, status)
            return note(status)
        self._retries.pop((model, version), None)
        loaded.batcher.start()
        previous = self._registry.publish(loaded, status)
        self.on_change()
        log.info("version available", model=model, version=version, provider=status.provider, digest=status.digest)
        if previous is not None:
            previous.unload(self._settings.drain.timeout)
        return status

    def _retry_later(self, model: str, version: int, fingerprint: str) -> float:
        """Note when a version that failed is due again. Returns the seconds until then."""
        before = self._retries.get((model, version))
        again = before is not None and before.fingerprint == fingerprint
        delay = min(before.delay * 2, _RETRY_AT_MOST_SECONDS) if before and again else _RETRY_SECONDS
        self._retries[model, version] = _Retry(fingerprint, delay, monotonic() + delay)
        return delay

    def _unload(self, model: str, version: int) -> int:
        loaded = self._registry.withdraw(model, version)
        if loaded is None:
            return 0
        self.on_change()
        refused = loaded.unload(self._settings.drain.timeout)
        self._registry.set_status(model, version, VersionStatus(VersionState.UNLOADED))
        self._metrics.version_unloaded(model, version)
        log.info("version unloaded", model=model, version=version, refused=refused)
        return refused


def _fingerprint(found: FoundVersion, names: Sequence[str]) -> str:
    """Stands for the content of a version: changes when one of these files comes, goes or is replaced."""
    parts = []
    for name in names:
        path = found.directory / name
        try:
            info = path.stat()
        except OSError:
            parts.append("")
        else:
            readable = "" if os.access(path, os.R_OK) else "-unreadable"  # permissions leave the rest as it is
            parts.append(f"{info.st_ino}-{info.st_size}-{info.st_mtime_ns}{readable}")
    return " ".join(parts).strip()
