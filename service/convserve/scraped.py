"""Metrics that are read when somebody scrapes, so that they are never stale: versions, queues, answers."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from convserve.drift import CONFIDENCE_BOUNDS
from convserve.lifecycle import VersionState
from convserve.registry import Registry

_VERSION = ("model", "version")


class RegistryCollector:
    """Reads metrics from the registry of models."""

    def __init__(self, models: Registry) -> None:
        """Read from `models`."""
        self._models = models

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics as they are now."""
        yield from self._states()
        yield from self._routes()
        yield from self._queues()
        yield from self._answers()

    def _states(self) -> Iterator[Metric]:
        """Which versions there are, and what computes them."""
        states = GaugeMetricFamily("convserve_versions", "Versions by state.", labels=("model", "state"))
        info = GaugeMetricFamily(
            "convserve_version_info",
            "1 for each available version; labels tell its digest, the device that the settings want, and what computes"
            " in fact.",
            labels=(*_VERSION, "digest", "device", "provider"),
        )
        for model, versions in self._models.models().items():
            counts = dict.fromkeys(VersionState, 0)
            for status in versions.values():
                counts[status.state] += 1
            for state, count in counts.items():
                states.add_metric((model, state.value), count)
        for loaded in self._models.loaded():
            manifest, runtime = loaded.manifest, loaded.runtime
            bound = (manifest.model, str(manifest.version))
            info.add_metric((*bound, loaded.digest, runtime.device, runtime.provider), 1)
        yield from (states, info)

    def _routes(self) -> Iterator[Metric]:
        """Where requests go."""
        default = GaugeMetricFamily(
            "convserve_default_version",
            "Version that answers requests that name none; 0: the model has no version that can answer.",
            labels=("model",),
        )
        aliases = GaugeMetricFamily(
            "convserve_alias_info",
            "1 for each alias; the label tells its version.",
            labels=("model", "alias", "version"),
        )
        for model in self._models.models():
            default.add_metric((model,), self._models.default_version(model))
            for alias, version in self._models.routes(model).aliases.items():
                aliases.add_metric((model, alias, str(version)), 1)
        yield from (default, aliases)

    def _queues(self) -> Iterator[Metric]:
        """What waits and what runs."""
        rows = GaugeMetricFamily("convserve_queue_rows", "Images that wait.", labels=_VERSION)
        size = GaugeMetricFamily("convserve_queue_bytes", "Bytes of pixels that wait.", labels=_VERSION)
        most = GaugeMetricFamily(
            "convserve_queue_limit_rows", "Images that may wait; more are refused.", labels=_VERSION
        )
        most_bytes = GaugeMetricFamily(
            "convserve_queue_limit_bytes", "Bytes of pixels that may wait; more are refused.", labels=_VERSION
        )
        running = GaugeMetricFamily(
            "convserve_in_flight_rows", "Images in batches that are being computed.", labels=_VERSION
        )
        largest = GaugeMetricFamily("convserve_max_batch_rows", "Images that one batch may have.", labels=_VERSION)
        for loaded in self._models.loaded():
            bound = (loaded.manifest.model, str(loaded.manifest.version))
            batcher, limits = loaded.batcher, loaded.batcher.limits
            rows.add_metric(bound, batcher.waiting_rows)
            size.add_metric(bound, batcher.waiting_bytes)
            most.add_metric(bound, limits.max_queue_rows)
            most_bytes.add_metric(bound, limits.max_queue_bytes)
            running.add_metric(bound, batcher.in_flight_rows)
            largest.add_metric(bound, limits.max_batch_size)
        yield from (rows, size, most, most_bytes, running, largest)

    def _answers(self) -> Iterator[Metric]:
        """What the versions answered, and how far that is from what they were trained on."""
        predictions = CounterMetricFamily(
            "convserve_predictions", "Images by the class found most probable.", labels=(*_VERSION, "label")
        )
        confidence = HistogramMetricFamily(
            "convserve_prediction_confidence", "Probability of the most probable class.", labels=_VERSION
        )
        stability = GaugeMetricFamily(
            "convserve_drift_stability_index",
            "Population stability index against the training images: of the images' mean and standard deviation, and of"
            " the classes found. Below 0.1 is stable, above 0.25 is a shift.",
            labels=(*_VERSION, "feature"),
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
