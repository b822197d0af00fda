"""One `/metrics` for several workers: samples by name and labels, added up.

Counters and histograms of a worker that died are kept, or the sum would fall and every rate computed from it would
jump.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeAlias

from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric

Labels: TypeAlias = tuple[tuple[str, str], ...]
Samples: TypeAlias = dict[tuple[str, Labels], float]
Family: TypeAlias = tuple[str, str, str, Samples]
"""Name, help, type, and samples by sample name and labels."""

_GROWING = ("counter", "histogram", "summary")
_LARGEST = (
    "convserve_alias_info",
    "convserve_build_info",
    "convserve_drift_stability_index",
    "convserve_intra_op_threads",
    "convserve_max_batch_rows",
    "convserve_version_info",
    "convserve_versions",
)
"""Gauges that describe all workers alike, or of which the worst counts; the largest is shown, not the sum."""
_SMALLEST = ("convserve_default_version",)
"""Gauges of which the smallest is shown: a model is ready when it is in every worker."""
_SUPERVISORS = ("process_start_time_seconds",)
"""What the supervisor tells of itself: a worker that is replaced is no server that began anew."""


def snapshot(registry: CollectorRegistry) -> list[Family]:
    """What a worker's registry holds, in a form that can be sent."""
    return [
        (
            family.name,
            family.documentation,
            family.type,
            {(one.name, tuple(sorted(one.labels.items()))): one.value for one in family.samples},
        )
        for family in registry.collect()
    ]


def merge(snapshots: Iterable[Iterable[Family]]) -> list[Family]:
    """Add snapshots up."""
    merged: dict[str, Family] = {}
    for families in snapshots:
        for name, documentation, kind, samples in families:
            if name in _SUPERVISORS:
                continue
            total = merged.setdefault(name, (name, documentation, kind, {}))[3]
            combine = _combination(name)
            for key, value in samples.items():
                total[key] = combine(total[key], float(value)) if key in total else float(value)
    return list(merged.values())


def _combination(name: str) -> Callable[[float, float], float]:
    """How two workers' values of a metric become one."""
    if name in _LARGEST:
        return max
    return min if name in _SMALLEST else float.__add__


def keep_growing(families: Iterable[Family]) -> list[Family]:
    """What stays of a worker that died: everything that only grows."""
    return [family for family in families if family[2] in _GROWING]


class AggregateCollector:
    """Shows merged snapshots in a registry of the supervisor's own."""

    def __init__(self, read: Callable[[], list[list[Family]]]) -> None:
        """Collect what `read` gives at every scrape."""
        self._read = read

    def collect(self) -> Iterator[Metric]:
        """Yield the merged families."""
        for name, documentation, kind, samples in merge(self._read()):
            metric = Metric(name, documentation, kind)
            for (sample, labels), value in samples.items():
                metric.add_sample(sample, dict(labels), value)
            yield metric
