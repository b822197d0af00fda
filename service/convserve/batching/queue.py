"""Forming batches, as a pure object: it never waits, never reads a clock, and has no thread or lock of its own.

`offer` takes a request or refuses it; `take` gives a batch, or says when to ask again. Whoever calls them brings `now`
and sees to it that only one call runs at a time.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from convserve.batching.item import Item, Priority, ReleaseReason
from convserve.errors import DeadlineError, OverloadedError


@dataclass(frozen=True)
class QueueLimits:
    """How large batches and the queue may become."""

    max_batch_size: int = 64
    """Rows a batch may have, at least 1."""
    max_queue_delay: float = 0.0
    """Seconds a batch may wait for more rows, counted from the arrival of its first row. 0: never wait."""
    max_queue_rows: int = 1024
    """Rows that may wait."""
    max_queue_bytes: int = 256 * 2**20
    """Bytes of pixels that may wait."""


class Part(NamedTuple):
    """Rows `start` to `stop` (exclusive) of an item, as they lie in one batch."""

    item: Item
    start: int
    stop: int


@dataclass(slots=True)
class Batch:
    """Rows that run together."""

    parts: list[Part]
    rows: int
    reason: ReleaseReason
    first_enqueued: float
    """When the batch's first row arrived."""
    released: float
    """When the batch was formed."""


@dataclass(slots=True)
class Drops:
    """Items that were dropped instead of being batched: their callers have gone, or their time was up."""

    cancelled: int = 0
    expired: list[Item] = field(default_factory=list)


def _never(rows: int) -> float:  # noqa: ARG001  # the signature is the point
    return 0.0


class BatchQueue:
    """Requests that wait, counted in rows and bytes, by priority and then in the order of arrival."""

    def __init__(self, limits: QueueLimits, run_seconds: Callable[[int], float] = _never) -> None:
        """Make an empty queue; `run_seconds` predicts how long a batch of that many rows runs."""
        self.limits = limits
        self._run_seconds = run_seconds
        self._waiting: dict[Priority, deque[Item]] = {priority: deque() for priority in sorted(Priority, reverse=True)}
        self._line_rows = [0] * len(Priority)
        self.rows = 0
        """Rows that wait."""
        self.bytes = 0
        """Bytes of pixels that wait."""
        self.drops = Drops()
        """What was dropped since the owner last looked; the owner replaces it."""

    def offer(self, item: Item, now: float) -> None:
        """Put a request at the end of its priority's line.

        Raises:
            OverloadedError: it does not fit any more; says when trying again makes sense.
            DeadlineError: its deadline has passed.
        """
        if item.deadline <= now:
            raise DeadlineError(f"the deadline passed {now - item.deadline:.3f} s before the request was queued")
        limits = self.limits
        size = item.images.nbytes
        if self.rows + item.rows > limits.max_queue_rows or self.bytes + size > limits.max_queue_bytes:
            raise OverloadedError(
                f"the queue is full: {self.rows} rows ({self.bytes} bytes) wait and {item.rows} rows ({size} bytes)"
                f" came; it holds {limits.max_queue_rows} rows and {limits.max_queue_bytes} bytes",
                retry_after_seconds=self.seconds_ahead(),
            )
        item.enqueued = now
        self._waiting[item.priority].append(item)
        self._account(item, item.rows)

    def seconds_ahead(self, priority: Priority = Priority.LOW) -> float:
        """Predicted seconds that everything waiting with this priority or a higher one takes to run."""
        rows = sum(self._line_rows[priority:])
        full, rest = divmod(rows, self.limits.max_batch_size)
        seconds = full * self._run_seconds(self.limits.max_batch_size)
        return seconds + (self._run_seconds(rest) if rest else 0.0)

    def discard(self, item: Item) -> bool:
        """Take a waiting item out, because its caller has gone. Returns False when no row of it waits here."""
        line = self._waiting[item.priority]
        try:
            line.remove(item)
        except ValueError:
            return False
        self._forget(item)
        self.drops.cancelled += 1
        return True

    def take(
        self, now: float, *, draining: bool = False, most_rows: int = 0, spare_rows: int = 0
    ) -> Batch | float | None:
        """Form a batch if it is time to.

        Args:
            now: reading of the clock.
            draining: nothing more will come, so that no window is waited for.
            most_rows: rows it may have, when that is less than `max_batch_size`; 0: no such limit.
            spare_rows: rows it may have beyond that, if they keep the last item together.

        Returns:
            The batch; or the reading of the clock at which to ask again unless something arrives before; or None when
            nothing waits. Items whose caller was answered already or whose deadline passed are dropped on the way.
        """
        self._drop_dead(now)
        if not self.rows:
            return None
        room = min(most_rows or self.limits.max_batch_size, self.limits.max_batch_size)
        first = min(line[0].enqueued for line in self._waiting.values() if line)
        reason = self._reason(now, first, room, draining=draining)
        if isinstance(reason, float):
            return reason
        batch = self._form(now, first, room, min(room + spare_rows, self.limits.max_batch_size) - room, reason)
        return batch if batch.parts else None  # none: in this moment, a batch that failed answered all that waited

    def drain(self) -> list[Item]:
        """Empty the queue and return what was in it."""
        items = [item for line in self._waiting.values() for item in line]
        for line in self._waiting.values():
            line.clear()
        self.rows = self.bytes = 0
        self._line_rows = [0] * len(Priority)
        return items

    def _reason(self, now: float, first: float, room: int, *, draining: bool) -> ReleaseReason | float:
        """Why a batch goes now, or when it goes."""
        if self.rows >= room:
            return ReleaseReason.FULL
        if self.limits.max_queue_delay <= 0:
            return ReleaseReason.IDLE
        if draining:
            return ReleaseReason.DRAIN
        window_ends = first + self.limits.max_queue_delay
        if now >= window_ends:
            return ReleaseReason.WINDOW
        # Twice the predicted run: a prediction is a mean, and the most urgent caller should not depend on luck.
        urgent = min(item.deadline for line in self._waiting.values() for item in line)
        latest_start = urgent - 2 * self._run_seconds(self.rows) if urgent < math.inf else math.inf
        if now >= latest_start:
            return ReleaseReason.DEADLINE
        return min(window_ends, latest_start)

    def _form(self, now: float, first: float, most_rows: int, spare_rows: int, reason: ReleaseReason) -> Batch:
        """Collect rows, most urgent line first, until the batch is full or nothing waits."""
        parts: list[Part] = []
        room = most_rows
        for line in self._waiting.values():
            while line and room > 0:
                item = line[0]
                if self._is_dead(item, now):
                    line.popleft()
                    self._drop(item)
                    continue
                left = item.rows - item.next_row
                stop = item.next_row + (left if left <= room + spare_rows else room)
                if stop < item.rows:
                    item.split()
                else:
                    line.popleft()
                parts.append(Part(item, item.next_row, stop))
                taken = stop - item.next_row
                item.next_row = stop
                room -= taken
                self._account(item, -taken)
        return Batch(parts, most_rows - room, reason, first, now)

    def _drop_dead(self, now: float) -> None:
        """Drop dead items at the heads of the lines, so that `take` never forms an empty batch."""
        for line in self._waiting.values():
            while line and self._is_dead(line[0], now):
                self._drop(line.popleft())

    def _is_dead(self, item: Item, now: float) -> bool:
        """Whether running it would help nobody: the caller is answered, or will have given up before it is done."""
        if item.finished or item.deadline <= now:
            return True
        if item.deadline == math.inf:
            return False
        rows = min(item.rows - item.next_row, self.limits.max_batch_size)
        return item.deadline <= now + self._run_seconds(rows)

    def _drop(self, item: Item) -> None:
        self._forget(item)
        if not item.finished:  # by a piece of it that failed
            self.drops.expired.append(item)

    def _forget(self, item: Item) -> None:
        """Take the rows of an item that still wait out of the accounts."""
        self._account(item, item.next_row - item.rows)

    def _account(self, item: Item, rows: int) -> None:
        """Add `rows` rows of an item to what waits, or take them away when negative."""
        self.rows += rows
        self.bytes += rows * item.row_bytes
        self._line_rows[item.priority] += rows
