"""All metrics, on a registry that is passed in.

Labels are bounded: `model` and `version` name what the repository holds, never what a request asked for in vain.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from convserve.batching import BatchRun, Outputs
from convserve.drift import CONFIDENCE_BOUNDS
from convserve.host import CpuPlan
from convserve.lifecycle import VersionState
from convserve.registry import Registry
from convserve.statistics import Statistics

_SECONDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)

disable_created_metrics()  # type: ignore[no-untyped-call]  # a series for each series, which no query of ours reads

log = structlog.get_logger(__name__)


class Metrics:
    """Every metric of the server."""

    def __init__(self, registry: CollectorRegistry, version: str) -> None:
        """Register all metrics on `registry`; `version` is the program's own."""
        self.registry = registry
        self.requests = Counter(
            "convserve_requests",
            "Requests answered, by gRPC method, model and status code.",
            ("api", "method", "model", "code"),
            registry=registry,
        )
        self.request_seconds = Histogram(
            "convserve_request_duration_seconds",
            "Time from the arrival of a request's message to its answer.",
            ("api", "method", "model"),
            buckets=_SECONDS,
            registry=registry,
        )
        self.in_flight = Gauge(
            "convserve_requests_in_flight", "Requests that are being handled.", ("api",), registry=registry
        )
        labels = ("model", "version")
        self.rows = Counter("convserve_rows", "Images computed, padding not counted.", labels, registry=registry)
        self.queue_seconds = Histogram(
            "convserve_queue_duration_seconds",
            "Time from the arrival of a request in the queue to the start of the batch that holds its first row.",
            labels,
            buckets=_SECONDS,
            registry=registry,
        )
        self.batch_wait_seconds = Histogram(
            "convserve_batch_wait_duration_seconds",
            "Time from the arrival of a batch's first row to the batch's release.",
            labels,
            buckets=_SECONDS,
            registry=registry,
        )
        self.run_seconds = Histogram(
            "convserve_run_duration_seconds", "Time a batch computed.", labels, buckets=_SECONDS, registry=registry
        )
        self.batch_rows = Histogram(
            "convserve_batch_rows", "Images in a batch.", labels, buckets=_ROWS, registry=registry
        )
        self.batch_padding_rows = Counter(
            "convserve_batch_padding_rows", "Rows computed that held no image.", labels, registry=registry
        )
        self.batches = Counter(
            "convserve_batches", "Batches run, by the reason of their release.", (*labels, "reason"), registry=registry
        )
        self.batch_failures = Counter(
            "convserve_batch_failures", "Batches that the runtime could not run.", labels, registry=registry
        )
        self.dropped = Counter(
            "convserve_dropped_requests",
            "Requests dropped from the queue before they ran: the caller was gone (cancelled) or it was too late"
            " (expired).",
            (*labels, "reason"),
            registry=registry,
        )
        self.shadow_rows = Counter(
            "convserve_shadow_rows",
            "Images that a shadow version answered too, by whether its most probable class was the same.",
            ("model", "version", "shadow_version", "result"),
            registry=registry,
        )
        self.load_failures = Counter(
            "convserve_version_load_failures", "Versions that could not be proved.", ("model",), registry=registry
        )
        self._intra_op_threads = Gauge(
            "convserve_intra_op_threads", "Threads that compute one batch, in each worker.", registry=registry
        )
        Gauge("convserve_build_info", "Always 1; the label tells the version.", ("version",), registry=registry).labels(
            version
        ).set(1)

    def show_plan(self, plan: CpuPlan) -> None:
        """Show how the cores are shared out."""
        self._intra_op_threads.set(plan.intra_op_threads)

    def observe_registry(self, models: Registry) -> None:
        """Show the state of versions and queues from now on, read when somebody scrapes."""
        self.registry.register(_RegistryCollector(models))


class VersionMetrics:
    """The metrics of one version, its labels bound once; what a batcher reports to."""

    def __init__(self, metrics: Metrics, model: str, version: int, statistics: Statistics) -> None:
        """Bind the labels; `statistics` are told of every batch too."""
        self._statistics = statistics
        bound = (model, str(version))
        self._model, self._version = model, version
        self._rows = metrics.rows.labels(*bound)
        self._queue = metrics.queue_seconds.labels(*bound)
        self._wait = metrics.batch_wait_seconds.labels(*bound)
        self._run = metrics.run_seconds.labels(*bound)
        self._batch_rows = metrics.batch_rows.labels(*bound)
        self._padding = metrics.batch_padding_rows.labels(*bound)
        self._failures = metrics.batch_failures.labels(*bound)
        self._batches: Callable[[str], Counter] = lambda reason: metrics.batches.labels(*bound, reason)
        self._dropped: Callable[[str], Counter] = lambda reason: metrics.dropped.labels(*bound, reason)
        self._shadow: Callable[[int, str], Counter] = lambda number, result: metrics.shadow_rows.labels(
            *bound, str(number), result
        )

    def batch_ran(self, run: BatchRun) -> None:
        """Count a batch."""
        self._statistics.batch_ran(run)
        self._rows.inc(run.rows)
        self._queue.observe(run.queue_seconds)
        self._wait.observe(run.batch_wait_seconds)
        self._run.observe(run.run_seconds)
        self._batch_rows.observe(run.rows)
        self._padding.inc(run.padded_rows - run.rows)
        self._batches(run.reason.value).inc()

    def items_dropped(self, reason: str, items: int) -> None:
        """Count requests that never ran."""
        self._dropped(reason).inc(items)

    def batch_failed(self, error: BaseException) -> None:
        """Count and log a batch that the runtime could not run."""
        self._failures.inc()
        log.error("batch failed", model=self._model, version=self._version, exc_info=error)

    def compared(self, shadow_version: int, answer: Outputs, shadow: Outputs) -> None:
        """Count the images on which a shadow version agrees, and those on which it does not."""
        same = int((answer.probabilities.argmax(1) == shadow.probabilities.argmax(1)).sum())
        self._shadow(shadow_version, "agree").inc(same)
        self._shadow(shadow_version, "disagree").inc(len(answer.probabilities) - same)


class _RegistryCollector:
    """Reads gauges from the registry of models at scrape time, so that they are never stale."""

    def __init__(self, models: Registry) -> None:
        self._models = models

    def collect(self) -> Iterator[Metric]:
        """Yield the gauges."""
        states = GaugeMetricFamily("convserve_versions", "Versions by state.", labels=("model", "state"))
        info = GaugeMetricFamily(
            "convserve_version_info",
            "1 for each available version; labels tell its digest and what computes it.",
            labels=("model", "version", "digest", "provider"),
        )
        waiting = GaugeMetricFamily("convserve_queue_rows", "Images that wait.", labels=("model", "version"))
        running = GaugeMetricFamily(
            "convserve_in_flight_rows", "Images in batches that are being computed.", labels=("model", "version")
        )
        for model, versions in self._models.models().items():
            counts = dict.fromkeys(VersionState, 0)
            for version, status in versions.items():
                counts[status.state] += 1
                if status.state is VersionState.AVAILABLE:
                    info.add_metric((model, str(version), status.digest, status.provider), 1)
            for state, count in counts.items():
                states.add_metric((model, state.value), count)
        for loaded in self._models.loaded():
            labels = (loaded.manifest.model, str(loaded.manifest.version))
            waiting.add_metric(labels, loaded.batcher.waiting_rows)
            running.add_metric(labels, loaded.batcher.in_flight_rows)
        yield from (states, info, waiting, running)
        yield from self._answers()

    def _answers(self) -> Iterator[Metric]:
        """What the versions answered, and how far that is from what they were trained on."""
        labels = ("model", "version")
        predictions = CounterMetricFamily(
            "convserve_predictions", "Images by the class found most probable.", labels=(*labels, "label")
        )
        confidence = HistogramMetricFamily(
            "convserve_prediction_confidence", "Probability of the most probable class.", labels=labels
        )
        stability = GaugeMetricFamily(
            "convserve_drift_stability_index",
            "Population stability index against the training images: of the images' mean and standard deviation, and of"
            " the classes found. Below 0.1 is stable, above 0.25 is a shift.",
            labels=(*labels, "feature"),
        )
        for loaded in self._models.loaded():
            bound = (loaded.manifest.model, str(loaded.manifest.version))
            seen = loaded.drift.seen()
            for label, count in zip(loaded.manifest.labels, seen.classes, strict=True):
                predictions.add_metric((*bound, label), count)
            cumulative = list(itertools.accumulate(seen.confidence))
            buckets = [(str(bound_), count) for bound_, count in zip(CONFIDENCE_BOUNDS, cumulative, strict=True)]
            confidence.add_metric(bound, [*buckets, ("+Inf", cumulative[-1])], seen.confidence_sum)
            for feature, value in seen.stability.items():
                stability.add_metric((*bound, feature), value)
        yield from (predictions, confidence, stability)
