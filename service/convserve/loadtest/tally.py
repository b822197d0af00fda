"""Adds up what the client processes send while a run goes on."""

from __future__ import annotations

from collections import Counter

import numpy as np

from convserve.loadtest.histogram import Histogram
from convserve.loadtest.records import Records

STATUS_NAMES = (
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
)


def status_name(code: int) -> str:
    """The name that gRPC has for a status."""
    return STATUS_NAMES[code] if code < len(STATUS_NAMES) else f"STATUS_{code}"


class Second:
    """The requests that were meant to start in one second of the run."""

    def __init__(self) -> None:
        """Start empty."""
        self.latencies = Histogram(digits=2)
        self.statuses: Counter[int] = Counter()


class Tally:
    """Requests whose intended start lies in the measured time, `warmup` to `warmup + seconds`; no others.

    Latency runs from the intended start to the end of the reply, of requests that were answered.
    """

    def __init__(self, warmup: float, seconds: float) -> None:
        """Start empty. `seconds` is infinite when a run ends with a count."""
        self._begin, self._end = warmup, warmup + seconds
        self.latencies = Histogram()
        self.lags = Histogram()
        """From the intended start until the request was sent."""
        self.queues = Histogram()
        """The server's: from arrival in its queue to the start of the batch."""
        self.waits = Histogram()
        """The server's: from the arrival of the batch's first row to its release. Part of the queue time."""
        self.runs = Histogram()
        """The server's: what the model took."""
        self.outsides = Histogram()
        """What is left of latency: client, network, and the server's work around the queue and the model."""
        self.statuses: Counter[int] = Counter()
        self.seconds: dict[int, Second] = {}
        """By second of the measured time."""
        self.rows = 0
        """Rows of requests that were answered."""
        self.batch_seconds: dict[int, list[float]] = {}
        """By rows of a batch: how many answered requests ran in one, and the sum of its run times."""
        self.finished_requests = self.finished_rows = 0
        """Answered within the measured time, whenever they began: what throughput counts."""
        self.last_done = warmup
        """When the last counted request ended."""

    @property
    def failed(self) -> int:
        """Requests that ended with an error."""
        return sum(count for code, count in self.statuses.items() if code)

    @property
    def requests(self) -> int:
        """Requests counted."""
        return sum(self.statuses.values())

    def take(self, records: Records) -> None:
        """Take in a piece of a process's records."""
        done_here = records[(records["code"] == 0) & (records["done"] >= self._begin) & (records["done"] <= self._end)]
        self.finished_requests += len(done_here)
        self.finished_rows += int(done_here["rows"].sum())
        records = records[(records["intended"] >= self._begin) & (records["intended"] < self._end)]
        if not len(records):
            return
        self.statuses.update(Counter(records["code"].tolist()))
        self.last_done = max(self.last_done, float(records["done"].max()))
        self.lags.record(records["sent"] - records["intended"])
        good = records[records["code"] == 0]
        self.rows += int(good["rows"].sum())
        latencies = good["done"] - good["intended"]
        self.latencies.record(latencies)
        told = good["run"] >= 0
        self.queues.record(good["queue"][told])
        self.waits.record(good["wait"][told])
        self.runs.record(good["run"][told])
        self.outsides.record(np.maximum(latencies - good["queue"] - good["run"], 0)[told])
        counts = np.bincount(good["batch"][told])
        sums = np.bincount(good["batch"][told], weights=good["run"][told])
        for rows in np.flatnonzero(counts).tolist():
            entry = self.batch_seconds.setdefault(rows, [0, 0.0])
            entry[0] += int(counts[rows])
            entry[1] += float(sums[rows])
        self._by_second(records)

    def _by_second(self, records: Records) -> None:
        seconds = (records["intended"] - self._begin).astype(int)
        for second in np.unique(seconds).tolist():
            here = records[seconds == second]
            entry = self.seconds.setdefault(second, Second())
            entry.statuses.update(Counter(here["code"].tolist()))
            good = here[here["code"] == 0]
            entry.latencies.record(good["done"] - good["intended"])
