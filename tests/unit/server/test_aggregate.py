"""How several workers' metrics become one answer."""

from __future__ import annotations

from convserve.server.aggregate import Family, keep_growing, merge

LABELS = (("model", "mnist"),)


def family(name: str, kind: str, value: float) -> Family:
    return (name, "Something.", kind, {(name, LABELS): value})


def merged(name: str, kind: str, *values: float) -> float:
    """What two or more workers' values of a metric become."""
    ((_, _, _, samples),) = merge([[family(name, kind, value)] for value in values])
    return samples[name, LABELS]


def test_what_is_counted_adds_up() -> None:
    """Counters, histograms, and gauges of what waits and runs."""
    assert merged("convserve_requests_total", "counter", 3, 4) == 7
    assert merged("convserve_queue_rows", "gauge", 3, 4) == 7
    assert merged("convserve_queue_limit_rows", "gauge", 1024, 1024) == 2048
    assert merged("process_open_fds", "gauge", 30, 50) / merged("process_max_fds", "gauge", 100, 100) == 0.4


def test_an_index_is_no_sum() -> None:
    """Two workers with an index of 0.2 each have not drifted by 0.4: the worse one counts."""
    assert merged("convserve_drift_stability_index", "gauge", 0.2, 0.1) == 0.2
    assert merged("convserve_max_batch_rows", "gauge", 64, 64) == 64
    assert merged("convserve_alias_info", "gauge", 1, 1) == 1


def test_a_model_is_ready_when_it_is_in_every_worker() -> None:
    """One worker without an available version makes the default version 0."""
    assert merged("convserve_default_version", "gauge", 4, 0) == 0
    assert merged("convserve_default_version", "gauge", 4, 5) == 4


def test_a_worker_that_is_replaced_is_no_server_that_began_anew() -> None:
    """The supervisor tells when it began; alerts count how often that changes."""
    assert merge([[family("process_start_time_seconds", "gauge", 5)]]) == []


def test_what_grew_outlives_the_worker_that_counted_it() -> None:
    """A sum that fell would look like a restart to every rate; gauges of the dead mean nothing."""
    kept = keep_growing([family("convserve_requests_total", "counter", 3), family("convserve_queue_rows", "gauge", 9)])
    assert [name for name, *_ in kept] == ["convserve_requests_total"]
