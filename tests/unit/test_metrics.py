"""What a version's life leaves in the metrics."""

from __future__ import annotations

from prometheus_client import CollectorRegistry

from convserve.batching import BatchRun, ReleaseReason
from convserve.errors import DeadlineError, InvalidRequestError, NotFoundError, OverloadedError, UnavailableError
from convserve.metrics import Metrics, VersionMetrics
from convserve.statistics import Statistics

RUN = BatchRun(
    item_rows=3, rows=3, padded_rows=4, reason=ReleaseReason.FULL, queue_seconds=0.2, batch_wait_seconds=0.1,
    run_seconds=0.01,
)  # fmt: skip


def load(metrics: Metrics, version: int) -> VersionMetrics:
    return VersionMetrics(metrics, "mnist", version, Statistics())


def versions(metrics: Metrics) -> set[str]:
    """Versions that a scrape shows."""
    return {one.labels["version"] for fam in metrics.registry.collect() for one in fam.samples if "model" in one.labels}


def test_a_batch_is_counted_in_rows_padding_and_reason() -> None:
    """Three images padded to four are three rows and one row of padding."""
    metrics = Metrics(CollectorRegistry(), "1.0")
    load(metrics, 1).batch_ran(RUN)
    labels = {"model": "mnist", "version": "1"}
    value = metrics.registry.get_sample_value
    assert value("convserve_rows_total", labels) == 3
    assert value("convserve_batch_rows_sum", labels) == 3
    assert value("convserve_batch_padding_rows_sum", labels) == 1
    assert value("convserve_batches_total", {**labels, "reason": "full"}) == 1
    assert value("convserve_run_duration_seconds_bucket", {**labels, "le": "0.01"}) == 1


def test_failures_are_shown_at_zero_before_they_happen() -> None:
    """Prometheus sees an increase only from a value that was there: the first refusal must not be missed."""
    metrics = Metrics(CollectorRegistry(), "1.0")
    load(metrics, 1)
    for reason in ("queue_full", "deadline", "draining", "invalid"):
        labels = {"model": "mnist", "version": "1", "reason": reason}
        assert metrics.registry.get_sample_value("convserve_refused_requests_total", labels) == 0
    labels = {"model": "mnist", "version": "1", "reason": "expired"}
    assert metrics.registry.get_sample_value("convserve_dropped_requests_total", labels) == 0


def test_refusals_are_counted_by_reason() -> None:
    """Errors that say nothing about a version's queue are not among them."""
    metrics = Metrics(CollectorRegistry(), "1.0")
    version = load(metrics, 1)
    for error in (OverloadedError("full"), DeadlineError("late"), DeadlineError("late"), UnavailableError("draining"),
                  InvalidRequestError("27x28"), NotFoundError("no")):  # fmt: skip
        version.refused(error)
    counted = {
        one.labels["reason"]: one.value
        for fam in metrics.registry.collect()
        for one in fam.samples
        if one.name == "convserve_refused_requests_total"
    }
    assert counted == {"queue_full": 1, "deadline": 2, "draining": 1, "invalid": 1}


def test_versions_unloaded_long_ago_leave_the_scrape() -> None:
    """Publishing every hour for a year must not make each scrape larger: the last three unloaded ones stay."""
    metrics = Metrics(CollectorRegistry(), "1.0")
    for number in range(1, 10):
        load(metrics, number).batch_ran(RUN)
        if number > 1:
            metrics.version_unloaded("mnist", number - 1)
    assert versions(metrics) == {"9", "8", "7", "6"}


def test_a_version_that_comes_back_is_not_forgotten() -> None:
    """A rollback loads a number that was unloaded before; it counts on, and stays as long as it is loaded."""
    metrics = Metrics(CollectorRegistry(), "1.0")
    load(metrics, 1).batch_ran(RUN)
    metrics.version_unloaded("mnist", 1)
    load(metrics, 1).batch_ran(RUN)
    for number in range(2, 9):
        load(metrics, number)
        metrics.version_unloaded("mnist", number)
    assert versions(metrics) == {"1", "8", "7", "6"}
    assert metrics.registry.get_sample_value("convserve_rows_total", {"model": "mnist", "version": "1"}) == 6
