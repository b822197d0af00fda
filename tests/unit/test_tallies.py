"""The instruments behind the metrics, against prometheus_client's own."""

from __future__ import annotations

import threading

import prometheus_client
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest

from convserve.tallies import Counts, Histograms

BOUNDS = (0.001, 0.01, 0.5, 1.0, 10.0)
VALUES = st.one_of(st.sampled_from(BOUNDS), st.floats(0, 20))


@given(st.lists(st.tuples(st.sampled_from("ab"), VALUES)))
def test_a_scrape_looks_as_from_the_library(observed: list[tuple[str, float]]) -> None:
    """Names, labels, buckets, counts and sums are the same, also for values that lie on a bound."""
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    count = Counts("calls", "Calls.", ("who",), ours)
    seconds = Histograms("call_seconds", "Time.", ("who",), ours, BOUNDS)
    their_count = prometheus_client.Counter("calls", "Calls.", ("who",), registry=theirs)
    their_seconds = prometheus_client.Histogram("call_seconds", "Time.", ("who",), registry=theirs, buckets=BOUNDS)
    for who, value in observed:
        count.labels(who).inc(value)
        seconds.labels(who).observe(value)
        their_count.labels(who).inc(value)
        their_seconds.labels(who).observe(value)
    # Sample by sample, since the order of samples has no meaning; `_created` is switched off where metrics are served.
    assert _samples(ours) == {key: value for key, value in _samples(theirs).items() if not key[0].endswith("_created")}


def _samples(registry: CollectorRegistry) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {
        (one.name, tuple(sorted(one.labels.items()))): one.value for fam in registry.collect() for one in fam.samples
    }


def test_a_gauge_goes_up_and_down() -> None:
    """`inc`, `dec` and `set`; a gauge without labels has one child."""
    registry = CollectorRegistry()
    gauge = Counts("level", "Level.", (), registry, "gauge")
    gauge.labels().inc(3)
    gauge.labels().dec()
    assert b"\nlevel 2.0\n" in generate_latest(registry)
    gauge.labels().set(7)
    assert b"# TYPE level gauge\nlevel 7.0\n" in generate_latest(registry)


def test_wrong_labels_are_refused() -> None:
    """A family never mixes children with different labels."""
    counts = Counts("calls", "Calls.", ("who", "why"), CollectorRegistry())
    with pytest.raises(ValueError, match=r"who.*why.*'me'"):
        counts.labels("me")


def test_what_is_forgotten_is_not_shown_and_starts_anew() -> None:
    """Only children with the labels named go."""
    registry = CollectorRegistry()
    counts = Counts("calls", "Calls.", ("model", "version"), registry)
    for version in ("1", "2"):
        counts.labels("mnist", version).inc(5)
    counts.forget(version="1")
    assert list(_samples(registry).values()) == [5]
    counts.labels("mnist", "1").inc()
    assert sorted(_samples(registry).values()) == [1, 5]


def test_nothing_is_lost_between_threads() -> None:
    """Eight threads count on the same children; every count arrives."""
    registry = CollectorRegistry()
    counts = Counts("calls", "Calls.", ("who",), registry)
    seconds = Histograms("call_seconds", "Time.", ("who",), registry, BOUNDS)

    def count() -> None:
        for _ in range(2_000):
            counts.labels("me").inc()
            seconds.labels("me").observe(0.5)

    threads = [threading.Thread(target=count) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    samples = _samples(registry)
    assert samples["calls_total", (("who", "me"),)] == 16_000
    assert samples["call_seconds_count", (("who", "me"),)] == 16_000
    assert samples["call_seconds_sum", (("who", "me"),)] == 8_000
