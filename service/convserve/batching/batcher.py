"""The threads around a queue: they wait, form, run and complete; every decision is the queue's.

::

    submit --> BatchQueue --take--> gather into a buffer --> execute --> complete rows --> done callbacks

One thread for each execution slot pulls when it is free, so batches grow by themselves under load. With `prefetch`,
one more thread has the next batch gathered while the slots are busy. A thread that would wait for the answer anyway can
run short batches itself instead of waking another (`run_one`); it takes an execution slot like everybody.
"""

from __future__ import annotations

import bisect
import math
import threading
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from convserve.arrays import Images
from convserve.batching.item import BatchRun, Item, Outputs, Trace
from convserve.batching.lateness import Lateness
from convserve.batching.queue import Batch, BatchQueue, QueueLimits
from convserve.batching.times import BatchTimes
from convserve.clock import Clock, monotonic
from convserve.errors import CancelledError, ConvserveError, DeadlineError, InternalError, UnavailableError

_WAY_BACK = 0.05
"""Share of the time left that is kept for the answer's way to the caller, whose clock has run longer than ours."""


class BatchObserver(Protocol):
    """Whoever counts batches. Methods are called from batcher threads and must not raise."""

    def batch_ran(self, run: BatchRun) -> None:
        """Take note of a batch; `run.item_rows` and `run.queue_seconds` are those of its first item."""

    def items_dropped(self, reason: str, items: int) -> None:
        """Take note of items that never ran: `cancelled` or `expired`."""

    def batch_failed(self, error: BaseException) -> None:
        """Take note of a batch that could not be run; `error` has its traceback."""


class Batcher:
    """Runs the items of one model version in batches."""

    def __init__(
        self,
        queue: BatchQueue,
        execute: Callable[[Images], Outputs],
        *,
        times: BatchTimes,
        observer: BatchObserver,
        allowed_batch_sizes: Sequence[int] = (),
        slots: int = 1,
        prefetch: int = 0,
        clock: Clock = monotonic,
        name: str = "batcher",
    ) -> None:
        """Put a batcher together; `start` brings it to life.

        Args:
            queue: the waiting items. The batcher's own from now on.
            execute: computes a batch, uint8 [n, H, W, C] with n one of the allowed sizes. Called from `slots` threads
                at once at most.
            times: predicts and learns how long batches take.
            observer: counts what happens.
            allowed_batch_sizes: batches are padded up to the next one; the largest is the queue's `max_batch_size`.
                Empty: no padding.
            slots: batches that may run at once.
            prefetch: batches formed ahead of a free slot.
            clock: seconds.
            name: prefix of the thread names.
        """
        self._queue = queue
        self._execute = execute
        self._times = times
        self._observer = observer
        self._sizes = sorted(allowed_batch_sizes)
        self._clock = clock
        self._lock = threading.Lock()  # a plain one: it is taken several times for each request
        self._work = threading.Condition(self._lock)
        self._slots = threading.BoundedSemaphore(slots)
        self._can_run_here = slots == 1 and prefetch == 0 and queue.limits.max_queue_delay <= 0
        self._own_buffer: Images | None = None
        self._busy_until = 0.0
        self._lateness = Lateness()
        self._in_flight = 0
        self._running: dict[int, float] = {}  # when the batch of each thread that computes one started
        self._state = "idle"
        self._draining = False
        self._threads = [
            threading.Thread(target=self._serve, name=f"{name}-{index}", daemon=True)
            for index in range(slots + prefetch)
        ]

    @property
    def limits(self) -> QueueLimits:
        """How large batches and the queue may become."""
        return self._queue.limits

    @property
    def allowed_batch_sizes(self) -> Sequence[int]:
        """The sizes that batches are padded to; empty: any."""
        return self._sizes

    @property
    def waiting_rows(self) -> int:
        """Rows in the queue."""
        return self._queue.rows

    @property
    def waiting_bytes(self) -> int:
        """Bytes of pixels in the queue."""
        return self._queue.bytes

    @property
    def in_flight_rows(self) -> int:
        """Rows that were taken from the queue and are not answered yet."""
        return self._in_flight

    @property
    def longest_run(self) -> float:
        """Seconds that the oldest of the batches that are running has been; 0 when none is."""
        started = tuple(self._running.values())
        return self._clock() - min(started) if started else 0.0

    @property
    def accepting(self) -> bool:
        """Whether items can be submitted."""
        return self._state == "running"

    def start(self) -> None:
        """Start the threads."""
        self._state = "running"
        for thread in self._threads:
            thread.start()

    def runs_here(self, rows: int, seconds: float) -> bool:
        """Whether `run_one` makes sense for a request of so many rows.

        There must be nothing to wait for or overlap with, one row may run no longer than that, and all of them no
        longer than `run_one` keeps a request whole: in pieces they would cost more than a change of thread.
        """
        if not self._can_run_here or rows > self._queue.limits.max_batch_size:
            return False
        predict, whole = self._times.predict, seconds if self._sizes else 2 * seconds
        return predict(self._padded(1)) <= seconds and (rows == 1 or predict(self._padded(rows)) <= whole)

    def submit(self, item: Item, *, wake: bool = True) -> None:
        """Queue an item. Never blocks; the item's callback brings the answer.

        Args:
            item: the rows.
            wake: whether to wake a thread for it. If not, the caller promises to call `run_one` until it says that
                nothing waits.

        Raises:
            OverloadedError: the queue is full.
            DeadlineError: the deadline has passed, or cannot be met with what waits and runs already.
            UnavailableError: the batcher is closing.
        """
        now = self._clock()
        with self._lock:
            if self._state != "running":
                raise UnavailableError("the model version is draining; try again")
            self._admit(item, now)
            self._queue.offer(item, now)
            if wake:
                self._work.notify()

    def run_one(self, seconds: float) -> bool:
        """Form a batch that runs about so long, and run it on this thread. Returns whether rows still wait.

        It runs up to twice as long where a request would be torn apart otherwise.

        When all slots are taken it does nothing: whoever holds one comes back for what waits.
        """
        if not self._slots.acquire(blocking=False):
            return False
        try:
            with self._work:
                now = self._clock()
                rows = self._rows_within(seconds)
                spare = 0 if self._sizes else rows  # padded up to the next size, a few more rows cost many
                taken = self._queue.take(now, draining=self._draining, most_rows=rows, spare_rows=spare)
                expired = self._collect_drops()
                if isinstance(taken, Batch):
                    self._in_flight += taken.rows
                elif self._state == "draining":
                    self._work.notify_all()
            _expire(expired)
            if isinstance(taken, Batch):
                try:
                    images, self._own_buffer = self._gather(taken, self._own_buffer)
                except Exception as error:  # noqa: BLE001  # as in `_run`
                    self._fail(taken, error)
                else:
                    self._run(taken, images)
        finally:
            self._slots.release()
        return bool(self._queue.rows)

    def _rows_within(self, seconds: float) -> int:
        """Rows of the largest batch that is predicted to run no longer; at least one."""
        sizes = self._sizes or self._times.sizes
        fitting = bisect.bisect_right(sizes, seconds, key=self._times.predict)
        if not fitting:
            return sizes[0]
        fits = sizes[fitting - 1]
        if self._sizes or fitting == len(sizes):
            return fits
        too_long = sizes[fitting]  # the answer lies between the two, as predictions do
        least, most = self._times.predict(fits), self._times.predict(too_long)
        return fits + int((too_long - fits) * (seconds - least) / (most - least))

    def cancel(self, item: Item, why: ConvserveError | None = None) -> None:
        """Give an item up, because its caller has gone, or for another reason.

        Rows that wait never run; rows that run are not waited for.
        """
        with self._work:
            self._queue.discard(item)
            expired = self._collect_drops()
        item.finish(why or CancelledError("the caller gave the request up"))
        _expire(expired)

    def drain(self) -> None:
        """Wait for no more rows to fill a batch: few are to come. They are taken until `close`."""
        with self._work:
            self._draining = True
            self._work.notify_all()

    def close(self, grace_seconds: float) -> int:
        """Take nothing new, run what waits for at most `grace_seconds`, then refuse the rest and stop the threads.

        Returns how many items were refused. Calling it again does nothing.
        """
        with self._work:
            if self._state in ("idle", "closed"):
                self._state = "closed"
                return 0
            self._state, self._draining = "draining", True
            self._work.notify_all()
            self._work.wait_for(lambda: not self._queue.rows, timeout=grace_seconds)
            refused = self._queue.drain()
            self._state = "closed"
            self._work.notify_all()
        for item in refused:
            item.finish(UnavailableError("the server stopped before the request could run; try another one"))
        for thread in self._threads:
            thread.join()
        return len(refused)

    def _admit(self, item: Item, now: float) -> None:
        """Refuse at once what cannot be done in time, before it costs anything. Called with the lock held."""
        if item.deadline == math.inf:
            return
        queue = self._queue
        size = min(item.rows, queue.limits.max_batch_size)
        pieces = -(-item.rows // queue.limits.max_batch_size)
        item.predicted_seconds = run_seconds = pieces * self._times.predict(self._padded(size))
        if queue.rows:
            item.predicted_seconds += queue.seconds_ahead(item.priority)
        if self._busy_until > now:
            item.predicted_seconds += self._busy_until - now
        if not (queue.rows or self._in_flight):
            self._lateness.fade(now)
        left = item.deadline - now
        needed = item.predicted_seconds + self._lateness.allowance
        if needed > left * (1 - _WAY_BACK):
            if left > 0 and self._lateness.lets_in(now, run_seconds):
                item.deadline = math.inf  # it teaches what answers take now, also when it is late
                return
            raise DeadlineError(
                f"the deadline is {max(left, 0.0):.4f} s away and the answer would take about {needed:.4f} s; nothing"
                " was computed"
            )

    def _serve(self) -> None:
        """Form and run batches until the batcher is closed and the queue is empty."""
        buffer: Images | None = None
        while (batch := self._next()) is not None:
            try:
                images, buffer = self._gather(batch, buffer)
            except Exception as error:  # noqa: BLE001  # as in `_run`
                self._fail(batch, error)
                continue
            with self._slots:
                self._run(batch, images)

    def _next(self) -> Batch | None:
        """Wait for a batch. None: closed."""
        while True:
            with self._work:
                now = self._clock()
                taken = self._queue.take(now, draining=self._draining)
                expired = self._collect_drops()
                if isinstance(taken, Batch):
                    self._in_flight += taken.rows
                    if self._queue.rows:
                        self._work.notify()
                if self._state == "draining" and not self._queue.rows:
                    self._work.notify_all()
                closed = self._state == "closed"
                if not (isinstance(taken, Batch) or closed or expired):
                    self._work.wait(None if taken is None else max(taken - now, 0.0))
            _expire(expired)
            if isinstance(taken, Batch):
                return taken
            if closed:
                return None

    def _collect_drops(self) -> list[Item]:
        """Count what the queue dropped. Returns the expired items, to be answered once the lock is released."""
        drops = self._queue.drops
        if drops.cancelled:
            self._observer.items_dropped("cancelled", drops.cancelled)
            drops.cancelled = 0
        if not drops.expired:
            return []
        expired, drops.expired = drops.expired, []
        self._observer.items_dropped("expired", len(expired))
        return expired

    def _padded(self, rows: int) -> int:
        """The allowed batch size that holds `rows`."""
        return self._sizes[bisect.bisect_left(self._sizes, rows)] if self._sizes else rows

    def _gather(self, batch: Batch, buffer: Images | None) -> tuple[Images, Images | None]:
        """Bring the rows of a batch together. Returns uint8 [padded rows, H, W, C] and the buffer for the next call.

        Rows that are together already, and need no padding, are used where they are.
        """
        padded = self._padded(batch.rows)
        first = batch.parts[0]
        if len(batch.parts) == 1 and padded == batch.rows:
            return first.item.images[first.start : first.stop], buffer
        if buffer is None:
            largest = self._padded(self._queue.limits.max_batch_size)
            buffer = np.zeros((largest, *first.item.images.shape[1:]), np.uint8)
        row = 0
        for part in batch.parts:
            count = part.stop - part.start
            buffer[row : row + count] = part.item.images[part.start : part.stop]
            row += count
        return buffer[:padded], buffer

    def _run(self, batch: Batch, images: Images) -> None:
        """Execute a batch and answer its items. Whatever goes wrong is the answer of its own items only."""
        started = self._clock()
        self._busy_until = started + self._times.predict(len(images))
        self._running[thread := threading.get_ident()] = started
        try:
            outputs = self._execute(images)
            if any(len(part) != len(images) for part in outputs):
                lengths = ", ".join(str(len(part)) for part in outputs)
                raise InternalError(f"the model returned {lengths} rows for a batch of {len(images)}")
        except Exception as error:  # noqa: BLE001  # any failure of a runtime must reach the callers, not kill the thread
            self._fail(batch, error)
            return
        finally:
            del self._running[thread]
        finished = self._clock()
        run_seconds = finished - started
        self._times.record(len(images), run_seconds)
        self._leave(batch.rows)
        rows, padded, reason = batch.rows, len(images), batch.reason
        waited = batch.released - batch.first_enqueued
        logits, probabilities = outputs
        row = 0
        traced: list[tuple[Trace, BatchRun]] = []
        for part in batch.parts:
            item, count = part.item, part.stop - part.start
            run = BatchRun(count, rows, padded, reason, started - item.enqueued, waited, run_seconds)
            if not row:
                self._observer.batch_ran(run)
            if item.predicted_seconds and part.stop == item.rows:
                self._lateness.note(item.predicted_seconds, finished - item.enqueued, finished)
            if item.trace is not None:
                traced.append((item.trace, run))
            answer = Outputs(logits[row : row + count], probabilities[row : row + count])
            item.complete_rows(part.start, answer, run)
            row += count
        if traced:
            traced[0][0].batch_ran(started, traced)

    def _fail(self, batch: Batch, error: Exception) -> None:
        """Answer the items of a batch that could not be gathered, or that the runtime could not run."""
        self._observer.batch_failed(error)
        failure = error if isinstance(error, ConvserveError) else InternalError("the model failed to run")
        for part in batch.parts:
            part.item.finish(failure)
        self._leave(batch.rows)

    def _leave(self, rows: int) -> None:
        """Take rows out of the account of those in flight."""
        with self._lock:
            self._in_flight -= rows


def _expire(items: list[Item]) -> None:
    for item in items:
        item.finish(DeadlineError("the deadline passed, or was too near, when its turn came; nothing was computed"))
