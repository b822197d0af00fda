"""Where the time of a version's requests went: counts and sums, exact, since the version was loaded.

Prometheus' histograms show the same as distributions; this is for dialects that ask for sums.
"""

from __future__ import annotations

import copy
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from convserve.batching import BatchRun


@dataclass(slots=True)
class Tally:
    """How often something happened, and how long it took in all."""

    count: int = 0
    """How often."""
    seconds: float = 0.0
    """In all."""

    def add(self, seconds: float) -> None:
        """One more."""
        self.count += 1
        self.seconds += seconds

    def merge(self, other: Tally) -> None:
        """Count what another one counted."""
        self.count += other.count
        self.seconds += other.seconds


@dataclass(slots=True)
class Totals:
    """Sums. The four stages add up to `success`."""

    success: Tally = field(default_factory=Tally)
    """Requests answered, from the engine's door and back."""
    failed: Tally = field(default_factory=Tally)
    """Requests refused or failed."""
    decode: Tally = field(default_factory=Tally)
    """Stage: decoding and checking images."""
    queue: Tally = field(default_factory=Tally)
    """Stage: waiting for the first batch."""
    run: Tally = field(default_factory=Tally)
    """Stage: computing, the whole batch for each request in it."""
    reply: Tally = field(default_factory=Tally)
    """Stage: everything else, such as handing rows out and waiting for further batches."""
    rows: int = 0
    """Images computed for requests that were answered."""
    batches: dict[int, Tally] = field(default_factory=dict)
    """Batches run, by rows."""
    last_batch: float = 0.0
    """When the last batch ended, in seconds since 1970; 0: none ran."""

    def add(self, other: Totals) -> None:
        """Add the sums of another process."""
        for name in ("success", "failed", "decode", "queue", "run", "reply"):
            getattr(self, name).merge(getattr(other, name))
        for rows, tally in other.batches.items():
            self.batches.setdefault(rows, Tally()).merge(tally)
        self.rows += other.rows
        self.last_batch = max(self.last_batch, other.last_batch)


class Statistics:
    """Sums the times of one version. Thread-safe."""

    def __init__(self) -> None:
        """Start at zero."""
        self._lock = threading.Lock()
        self._totals = Totals()
        self._answered = self._rows = 0
        self._decode_seconds = self._queue_seconds = self._run_seconds = self._seconds = 0.0

    def batch_ran(self, run: BatchRun) -> None:
        """Take note of a batch."""
        with self._lock:
            self._totals.batches.setdefault(run.rows, Tally()).add(run.run_seconds)
            self._totals.last_batch = time.time()

    def answered(self, rows: int, decode_seconds: float, total_seconds: float, runs: Sequence[BatchRun]) -> None:
        """Take note of a request that was answered."""
        if len(runs) == 1:
            queue, run = runs[0].queue_seconds, runs[0].run_seconds
        else:
            queue = min((run.queue_seconds for run in runs), default=0.0)
            computing = sum(run.run_seconds for run in runs)
            run = min(computing, max(total_seconds - decode_seconds - queue, 0.0))  # batches may run side by side
        with self._lock:  # in one place, since it is done for every request
            self._answered += 1
            self._rows += rows
            self._decode_seconds += decode_seconds
            self._queue_seconds += queue
            self._run_seconds += run
            self._seconds += total_seconds

    def failed(self, seconds: float) -> None:
        """Take note of a request that was refused or failed."""
        with self._lock:
            self._totals.failed.add(seconds)

    def totals(self) -> Totals:
        """The sums now: a copy."""
        with self._lock:
            totals = copy.deepcopy(self._totals)
            parts = self._decode_seconds, self._queue_seconds, self._run_seconds
            reply = max(self._seconds - sum(parts), 0.0)
            count, seconds, totals.rows = self._answered, self._seconds, self._rows
        totals.success = Tally(count, seconds)
        totals.decode, totals.queue, totals.run, totals.reply = (Tally(count, one) for one in (*parts, reply))
        return totals
