"""All metrics that are counted as things happen, on a registry that is passed in; `scraped` reads the others.

Labels are bounded: `model` and `version` name what the repository holds, never what a request asked for in vain, and of
versions that were unloaded only the last few are remembered.
"""

from __future__ import annotations

import threading
from collections import defaultdict, deque

import structlog
from prometheus_client import CollectorRegistry

from convserve.batching import BatchRun, Outputs, ReleaseReason
from convserve.errors import DeadlineError, InvalidRequestError, OverloadedError, UnavailableError
from convserve.host import CpuPlan
from convserve.registry import Registry
from convserve.scraped import RegistryCollector
from convserve.statistics import Statistics
from convserve.tallies import Counts, Histograms

_SECONDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
_PADDING = (0, *_ROWS)
_REFUSALS: dict[type[BaseException], str] = {
    OverloadedError: "queue_full",
    DeadlineError: "deadline",
    UnavailableError: "draining",
    InvalidRequestError: "invalid",
}
_DROPS = ("cancelled", "expired")
_UNLOADED_KEPT = 3
"""Unloaded versions of one model whose series stay, so that a scrape after a swap still finds their last counts."""

log = structlog.get_logger(__name__)


class Metrics:
    """Every metric of the server."""

    def __init__(self, registry: CollectorRegistry, version: str) -> None:
        """Register all metrics on `registry`; `version` is the program's own."""
        self.registry = registry
        self.requests = Counts(
            "convserve_requests",
            "Requests answered, by gRPC method, model and status code.",
            ("api", "method", "model", "code"),
            registry,
        )
        self.request_seconds = Histograms(
            "convserve_request_duration_seconds",
            "Time from the arrival of a request's message to its answer.",
            ("api", "method", "model"),
            registry,
            _SECONDS,
        )
        self.in_flight = Counts(
            "convserve_requests_in_flight", "Requests that are being handled.", ("api",), registry, "gauge"
        )
        labels = ("model", "version")
        self.rows = Counts("convserve_rows", "Images computed, padding not counted.", labels, registry)
        self.queue_seconds = Histograms(
            "convserve_queue_duration_seconds",
            "Time from the arrival of a request in the queue to the start of the batch that holds its first row; of the"
            " first request in each batch.",
            labels,
            registry,
            _SECONDS,
        )
        self.batch_wait_seconds = Histograms(
            "convserve_batch_wait_duration_seconds",
            "Time from the arrival of a batch's first row to the batch's release.",
            labels,
            registry,
            _SECONDS,
        )
        self.run_seconds = Histograms(
            "convserve_run_duration_seconds", "Time a batch computed.", labels, registry, _SECONDS
        )
        self.batch_rows = Histograms("convserve_batch_rows", "Images in a batch.", labels, registry, _ROWS)
        self.batch_padding_rows = Histograms(
            "convserve_batch_padding_rows", "Rows of a batch that held no image.", labels, registry, _PADDING
        )
        self.batches = Counts(
            "convserve_batches", "Batches run, by the reason of their release.", (*labels, "reason"), registry
        )
        self.batch_failures = Counts(
            "convserve_batch_failures", "Batches that the runtime could not run.", labels, registry
        )
        self.dropped = Counts(
            "convserve_dropped_requests",
            "Requests dropped from the queue before they ran: the caller was gone (cancelled) or it was too late"
            " (expired).",
            (*labels, "reason"),
            registry,
        )
        self.refused = Counts(
            "convserve_refused_requests",
            "Requests refused at the door of a version's queue: it was full (queue_full), the deadline could not be met"
            " (deadline), the version was going away (draining), or the images were wrong (invalid).",
            (*labels, "reason"),
            registry,
        )
        self.shadow_rows = Counts(
            "convserve_shadow_rows",
            "Images that a shadow version answered too, by whether its most probable class was the same.",
            ("model", "version", "shadow_version", "result"),
            registry,
        )
        self.load_failures = Counts(
            "convserve_version_load_failures", "Versions that could not be proved.", ("model",), registry
        )
        self._intra_op_threads = Counts(
            "convserve_intra_op_threads", "Threads that compute one batch, in each worker.", (), registry, "gauge"
        )
        build = Counts(
            "convserve_build_info", "Always 1; the label tells the version.", ("version",), registry, "gauge"
        )
        build.labels(version).set(1)
        self._unloaded: defaultdict[str, deque[int]] = defaultdict(deque)
        self._lock = threading.Lock()

    def show_plan(self, plan: CpuPlan) -> None:
        """Show how the cores are shared out."""
        self._intra_op_threads.labels().set(plan.intra_op_threads)

    def observe_registry(self, models: Registry) -> None:
        """Show the state of versions and queues from now on, read when somebody scrapes."""
        self.registry.register(RegistryCollector(models))

    def version_loaded(self, model: str, version: int) -> None:
        """Show everything about a version at zero, so that its first failure is an increase."""
        with self._lock:
            if version in self._unloaded[model]:
                self._unloaded[model].remove(version)
        bound = (model, str(version))
        for family in (self.rows, self.batch_failures):
            family.labels(*bound)
        for family, reasons in (
            (self.batches, [reason.value for reason in ReleaseReason]),
            (self.dropped, _DROPS),
            (self.refused, _REFUSALS.values()),
        ):
            for reason in reasons:
                family.labels(*bound, reason)

    def version_unloaded(self, model: str, version: int) -> None:
        """Forget what was unloaded long ago, or every version ever published would stay in each scrape."""
        with self._lock:
            unloaded = self._unloaded[model]
            unloaded.append(version)
            oldest = unloaded.popleft() if len(unloaded) > _UNLOADED_KEPT else None
        if oldest is not None:
            for family in (
                *(self.rows, self.batch_failures, self.batches, self.dropped, self.refused, self.shadow_rows),
                *(self.queue_seconds, self.batch_wait_seconds, self.run_seconds),
                *(self.batch_rows, self.batch_padding_rows),
            ):
                family.forget(model=model, version=str(oldest))


class VersionMetrics:
    """The metrics of one version, its labels bound once; what a batcher reports to."""

    def __init__(self, metrics: Metrics, model: str, version: int, statistics: Statistics) -> None:
        """Bind the labels; `statistics` are told of every batch too."""
        metrics.version_loaded(model, version)
        self._statistics = statistics
        bound = (model, str(version))
        self._metrics = metrics
        self._bound = bound
        self._rows = metrics.rows.labels(*bound)
        self._queue = metrics.queue_seconds.labels(*bound)
        self._wait = metrics.batch_wait_seconds.labels(*bound)
        self._run = metrics.run_seconds.labels(*bound)
        self._batch_rows = metrics.batch_rows.labels(*bound)
        self._padding = metrics.batch_padding_rows.labels(*bound)
        self._failures = metrics.batch_failures.labels(*bound)
        self._batches = {reason: metrics.batches.labels(*bound, reason.value) for reason in ReleaseReason}

    def batch_ran(self, run: BatchRun) -> None:
        """Count a batch."""
        self._statistics.batch_ran(run)
        self._rows.inc(run.rows)
        self._queue.observe(run.queue_seconds)
        self._wait.observe(run.batch_wait_seconds)
        self._run.observe(run.run_seconds)
        self._batch_rows.observe(run.rows)
        self._padding.observe(run.padded_rows - run.rows)
        self._batches[run.reason].inc()

    def items_dropped(self, reason: str, items: int) -> None:
        """Count requests that never ran."""
        self._metrics.dropped.labels(*self._bound, reason).inc(items)

    def refused(self, error: BaseException) -> None:
        """Count a request that was not queued, by the reason that the error tells; others are not counted here."""
        reason = _REFUSALS.get(type(error))
        if reason is not None:
            self._metrics.refused.labels(*self._bound, reason).inc()

    def batch_failed(self, error: BaseException) -> None:
        """Count and log a batch that the runtime could not run."""
        self._failures.inc()
        model, version = self._bound
        log.error("batch failed", model=model, version=int(version), exc_info=error)

    def compared(self, shadow_version: int, answer: Outputs, shadow: Outputs) -> None:
        """Count the images on which a shadow version agrees, and those on which it does not."""
        same = int((answer.probabilities.argmax(1) == shadow.probabilities.argmax(1)).sum())
        count = self._metrics.shadow_rows.labels
        count(*self._bound, str(shadow_version), "agree").inc(same)
        count(*self._bound, str(shadow_version), "disagree").inc(len(answer.probabilities) - same)
