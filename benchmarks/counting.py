"""What counting one request and its batch costs one thread: our instruments against prometheus_client's.

python -m benchmarks.counting --repetitions 5
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import prometheus_client
from prometheus_client import CollectorRegistry

from benchmarks import common
from convserve.tallies import Counts, Histograms

ROUNDS = 20_000
SECONDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
CALL = ("convserve.v1", "Classify", "mnist")
VERSION = ("mnist", "1")


def ours() -> Callable[[], None]:
    """A function that counts a request and its batch as the server does."""
    registry = CollectorRegistry()
    return _counting(
        lambda name, labels: Counts(name, "Help.", labels, registry),
        lambda name, labels, bounds: Histograms(name, "Help.", labels, registry, bounds),
    )


def library() -> Callable[[], None]:
    """The same with prometheus_client."""
    registry = CollectorRegistry()
    return _counting(
        lambda name, labels: prometheus_client.Gauge(name, "Help.", labels, registry=registry),
        lambda name, labels, bounds: prometheus_client.Histogram(
            name, "Help.", labels, registry=registry, buckets=bounds
        ),
    )


def _counting(number: Callable[..., Any], histogram: Callable[..., Any]) -> Callable[[], None]:
    in_flight, requests = number("in_flight", ("api",)), number("requests", ("api", "method", "model", "code"))
    request_seconds = histogram("request_seconds", ("api", "method", "model"), SECONDS)
    of_version = ("model", "version")
    rows, batches = number("rows", of_version).labels(*VERSION), number("batches", of_version).labels(*VERSION)
    times = [histogram(name, of_version, SECONDS).labels(*VERSION) for name in ("queue", "wait", "run")]
    sizes = [histogram(name, of_version, ROWS).labels(*VERSION) for name in ("batch_rows", "padding")]

    def count() -> None:
        in_flight.labels(CALL[0]).inc()
        for one in times:
            one.observe(0.0004)
        for one in sizes:
            one.observe(1)
        rows.inc()
        batches.inc()
        in_flight.labels(CALL[0]).dec()
        requests.labels(*CALL, "OK").inc()
        request_seconds.labels(*CALL).observe(0.0006)

    return count


def cpu_seconds(count: Callable[[], None]) -> float:
    """CPU time of one call, in the mean of many."""
    started = time.thread_time()
    for _ in range(ROUNDS):
        count()
    return (time.thread_time() - started) / ROUNDS


def main() -> None:
    """Measure, alternating, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=5, help="how often both are measured (default: 5)")
    args = parser.parse_args()
    before = common.conditions()
    counters = {"convserve.tallies": ours(), "prometheus_client": library()}
    readings: dict[str, list[float]] = {name: [] for name in counters}
    for repetition in range(args.repetitions):
        for name, count in counters.items():
            readings[name].append(cpu_seconds(count))
            print(f"{repetition} {name:18} {readings[name][-1] * 1e6:6.2f} µs")
    result = {
        "what": "CPU seconds of one thread for counting one request and its batch",
        "rounds": ROUNDS,
        "conditions": before,
        "seconds": {name: common.summary(values) for name, values in readings.items()},
    }
    print(common.write_result("counting", result).relative_to(common.ROOT))


if __name__ == "__main__":
    main()
