"""Brings the registry to what the repository and the policy want: loads, proves, swaps and unloads versions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import structlog

from convserve import manifest as manifests
from convserve import proving, repository
from convserve.batching import Batcher, BatchQueue, BatchTimes, QueueLimits
from convserve.config import ModelSettings, Settings
from convserve.errors import ArtifactError, RuntimeNotInstalledError
from convserve.lifecycle import Known, Load, VersionPolicy, VersionState, next_action
from convserve.metrics import Metrics, VersionMetrics
from convserve.registry import LoadedVersion, Registry, VersionStatus
from convserve.repository import FoundVersion
from convserve.runtimes import Runtime, RuntimeFactory

log = structlog.get_logger(__name__)


class Manager:
    """Owns the life of every version. One thread at a time may call it."""

    def __init__(self, settings: Settings, registry: Registry, metrics: Metrics, open_runtime: RuntimeFactory) -> None:
        """Manage the versions below `settings.model_repository`; `open_runtime` builds what computes them."""
        self._settings = settings
        self._registry = registry
        self._metrics = metrics
        self._open_runtime = open_runtime
        self._policy = VersionPolicy()

    def reconcile(self) -> list[VersionStatus]:
        """Load and unload until nothing is left to do. Returns the failures met on the way.

        Raises:
            ConfigError: the repository cannot be read.
        """
        failures = []
        for model, found in repository.scan(self._settings.model_repository).items():
            self._registry.add_model(model)
            fingerprints = {version: _fingerprint(entry) for version, entry in found.items()}
            while action := next_action(fingerprints, self._known(model), self._policy):
                if isinstance(action, Load):
                    status = self._load(found[action.version], fingerprints[action.version])
                    if status.state is VersionState.FAILED:
                        failures.append(status)
                else:
                    self._unload(model, action.version)
        return failures

    def close(self) -> int:
        """Unload everything. Returns how many accepted requests had to be refused."""
        refused = 0
        for loaded in self._registry.loaded():
            refused += self._unload(loaded.manifest.model, loaded.manifest.version)
        return refused

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
            loaded, status = self._prove(found, status, note)
        except (ArtifactError, RuntimeNotInstalledError) as error:
            log.error("version failed", model=model, version=version, reason=str(error))
            self._metrics.load_failures.labels(model).inc()
            status = replace(status, state=VersionState.FAILED, reason=str(error))
            if serving:
                self._registry.note_failed_reload(model, version, status)
            return note(status)
        loaded.batcher.start()
        previous = self._registry.publish(loaded, status)
        log.info("version available", model=model, version=version, provider=status.provider, digest=status.digest)
        if previous is not None:
            previous.unload(self._settings.drain.timeout)
        return status

    def _prove(
        self, found: FoundVersion, status: VersionStatus, note: Callable[[VersionStatus], VersionStatus]
    ) -> tuple[LoadedVersion, VersionStatus]:
        """Check the files, build the runtime, replay the golden vectors."""
        manifest, digest = manifests.read(found.directory)
        status = note(replace(status, manifest=manifest, digest=digest))
        if (manifest.model, manifest.version) != (found.model, found.version):
            raise ArtifactError(
                f"{found.directory / manifests.MANIFEST_FILE}: is of {manifest.model} version {manifest.version}, and"
                f" lies where {found.model} version {found.version} should be"
            )
        manifests.verify_files(found.directory, manifest)
        runtime = self._open_runtime(found.directory, manifest)
        settings = self._settings.for_model(found.model)
        status = note(
            replace(
                status,
                state=VersionState.WARMING,
                provider=runtime.provider,
                max_batch_size=settings.max_batch_size,
            )
        )
        times = proving.prove(found.directory, manifest, runtime, _warm_sizes(settings))
        return self._assemble(manifest, digest, runtime, settings, times), status

    def _assemble(
        self, manifest: manifests.Manifest, digest: str, runtime: Runtime, settings: ModelSettings, times: BatchTimes
    ) -> LoadedVersion:
        """Put a batcher around a proved runtime."""
        max_rows = settings.max_queue_rows or 16 * settings.max_batch_size
        limits = QueueLimits(settings.max_batch_size, settings.max_queue_delay, max_rows, settings.max_queue_bytes)
        observer = VersionMetrics(self._metrics, manifest.model, manifest.version, manifest.labels)
        batcher = Batcher(
            BatchQueue(limits, times.predict),
            runtime.run,
            times=times,
            observer=observer,
            allowed_batch_sizes=settings.allowed_batch_sizes,
            name=f"{manifest.model}-{manifest.version}",
        )
        return LoadedVersion(manifest, digest, runtime, batcher, max_rows=max_rows, answered=observer.answered)

    def _unload(self, model: str, version: int) -> int:
        loaded = self._registry.withdraw(model, version)
        if loaded is None:
            return 0
        refused = loaded.unload(self._settings.drain.timeout)
        self._registry.set_status(model, version, VersionStatus(VersionState.UNLOADED))
        log.info("version unloaded", model=model, version=version, refused=refused)
        return refused


def _warm_sizes(settings: ModelSettings) -> list[int]:
    """The batch sizes to replay and time: those allowed, or powers of two up to the largest."""
    if settings.allowed_batch_sizes:
        return list(settings.allowed_batch_sizes)
    sizes = [1]
    while sizes[-1] * 2 < settings.max_batch_size:
        sizes.append(sizes[-1] * 2)
    return sorted({*sizes, settings.max_batch_size})


def _fingerprint(found: FoundVersion) -> str:
    """Stands for the content of a version: changes when the manifest is replaced."""
    try:
        info = (found.directory / manifests.MANIFEST_FILE).stat()
    except OSError:
        return ""
    return f"{info.st_ino}-{info.st_size}-{info.st_mtime_ns}"
