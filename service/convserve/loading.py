"""From a version directory to a version that can serve: checked, proved, and with a queue in front of it."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from convserve import manifest as manifests
from convserve import priority, proving, repository
from convserve.batching import Batcher, BatchQueue, BatchTimes, QueueLimits
from convserve.config import ModelSettings, Settings
from convserve.drift import Drift
from convserve.errors import ConfigError
from convserve.lifecycle import VersionState
from convserve.metrics import Metrics, VersionMetrics
from convserve.registry import LoadedVersion, VersionStatus
from convserve.repository import FoundVersion
from convserve.runtimes import Runtime, open_runtime
from convserve.statistics import Statistics

if TYPE_CHECKING:
    from convserve.signing import Verifier

log = structlog.get_logger(__name__)


class Loader:
    """Loads versions as the settings want them."""

    def __init__(self, settings: Settings, metrics: Metrics, intra_op_threads: int) -> None:
        """Load from `settings.model_repository`; `intra_op_threads` compute one batch."""
        self._settings = settings
        self._metrics = metrics
        self._intra_op_threads = intra_op_threads

    @cached_property
    def verifier(self) -> Verifier | None:
        """Checks signatures; None: they are not required."""
        if not self._settings.require_signature:
            return None
        from convserve.signing import Verifier  # brings a library of ten megabytes, for those who ask for signatures

        return Verifier(Path(self._settings.require_signature))

    def load(
        self,
        found: FoundVersion,
        status: VersionStatus,
        note: Callable[[VersionStatus], VersionStatus],
        *,
        in_background: bool,
    ) -> tuple[LoadedVersion, VersionStatus]:
        """Check signature and files, build the runtime, replay the golden vectors.

        Args:
            found: where the version lies.
            status: what is known of it so far.
            note: told what becomes known on the way.
            in_background: whether others are being served meanwhile, and come first.

        Returns:
            The version, not started yet, and its status.

        Raises:
            ArtifactError: it is damaged, not signed, or does not compute what it promises.
            RuntimeNotInstalledError: the runtime or device that the settings want is missing.
            ConfigError: the settings leave no room for an image, or the keys for signatures cannot be read.
        """
        root = self._settings.model_repository
        repository.check_inside(root, found.directory, [manifests.MANIFEST_FILE, manifests.SIGNATURE_FILE])
        content = manifests.read_bytes(found.directory)
        if self.verifier is not None:
            key = self.verifier.check(found.directory, content)
            log.info("signature verified", model=found.model, version=found.version, key=key)
        manifest, digest = manifests.parse(found.directory, content), hashlib.sha256(content).hexdigest()
        status = note(replace(status, manifest=manifest, digest=digest))
        manifests.check_place(found.directory, manifest, found.model, found.version)
        repository.check_inside(root, found.directory, manifest.files)
        manifests.verify_files(found.directory, manifest)
        settings = self._settings.for_model(found.model)
        max_rows = _max_rows(settings, manifest)
        runtime = open_runtime(
            found.directory,
            manifest,
            runtime=settings.runtime,
            device=settings.device,
            variant=settings.variant,
            intra_op_threads=self._intra_op_threads,
        )
        status = note(
            replace(
                status,
                state=VersionState.WARMING,
                provider=runtime.provider,
                max_batch_size=settings.max_batch_size,
            )
        )
        try:
            prove = partial(
                proving.prove,
                found.directory,
                manifest,
                runtime,
                _timed_sizes(settings, runtime),
                any_size=not _padding_sizes(settings, runtime),
            )
            times = priority.in_background(prove) if in_background else prove()
            runtime.trim()
            return self._assemble(manifest, digest, runtime, settings, times, max_rows), status
        except BaseException:
            runtime.close()
            raise

    def _assemble(
        self,
        manifest: manifests.Manifest,
        digest: str,
        runtime: Runtime,
        settings: ModelSettings,
        times: BatchTimes,
        max_rows: int,
    ) -> LoadedVersion:
        """Put a batcher around a proved runtime."""
        limits = QueueLimits(
            settings.max_batch_size, settings.max_queue_delay, _queue_rows(settings), settings.max_queue_bytes
        )
        statistics = Statistics()
        observer = VersionMetrics(self._metrics, manifest.model, manifest.version, statistics)
        batcher = Batcher(
            BatchQueue(limits, times.predict),
            runtime.run,
            times=times,
            observer=observer,
            allowed_batch_sizes=_padding_sizes(settings, runtime),
            slots=settings.execution_slots,
            prefetch=settings.prefetch_batches,
            name=f"{manifest.model}-{manifest.version}",
        )
        return LoadedVersion(
            manifest,
            digest,
            runtime,
            batcher,
            max_rows=max_rows,
            drift=Drift(manifest.statistics),
            compared=observer.compared,
            refused=observer.refused,
            statistics=statistics,
        )


def _queue_rows(settings: ModelSettings) -> int:
    """Rows that may wait."""
    return settings.max_queue_rows or 16 * settings.max_batch_size


def _max_rows(settings: ModelSettings, manifest: manifests.Manifest) -> int:
    """The most images one request may bring: what an empty queue takes.

    Raises:
        ConfigError: it takes none.
    """
    image_bytes = math.prod(manifest.input.shape)
    if settings.max_queue_bytes < image_bytes:
        raise ConfigError(
            f"model.max_queue_bytes is {settings.max_queue_bytes}; an image of {manifest.model} has {image_bytes}"
        )
    return min(_queue_rows(settings), settings.max_queue_bytes // image_bytes)


def _padding_sizes(settings: ModelSettings, runtime: Runtime) -> Sequence[int]:
    """The sizes that batches are padded to; none on a CPU, where a row that is not needed only costs."""
    if settings.allowed_batch_sizes or runtime.device == "cpu":
        return settings.allowed_batch_sizes
    return _timed_sizes(settings, runtime)  # a GPU searches its kernels anew for every shape


def _timed_sizes(settings: ModelSettings, runtime: Runtime) -> list[int]:
    """The batch sizes to time: those allowed, or powers of two up to what is computed at once, and the largest."""
    if settings.allowed_batch_sizes:
        return list(settings.allowed_batch_sizes)
    largest = settings.max_batch_size
    at_once = min(runtime.most_rows or largest, largest)
    sizes = [1]
    while sizes[-1] * 2 < at_once:
        sizes.append(sizes[-1] * 2)
    return sorted({*sizes, at_once, largest})
