"""Threads around `coalescing`: single images of concurrent callers travel as one RPC.

No thread of its own. Each caller waits for its own answer, until its own deadline; for each group one caller is
appointed to drive it: to make the RPC, repeat it where that makes sense, and hand out the answers. It is the one whose
deadline is the latest, so it outlives all others and nobody's time is cut short or drawn out.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeAlias

from convserve.client import coalescing
from convserve.client.coalescing import Group, Lanes
from convserve.client.images import Loaded
from convserve.client.requests import Options
from convserve.client.results import Classification
from convserve.client.retry import Budget
from convserve.client.splitting import Outcome, exchange
from convserve.client.tracing import Trace
from convserve.errors import ConvserveError, DeadlineError

Send: TypeAlias = Callable[[Sequence[Loaded], Options, float, Trace], list[Classification]]
"""Classifies images in one RPC, until a deadline, with a trace context. Raises ConvserveError."""


class _Waiter:
    """Where one caller waits. Written under the coalescer's lock."""

    __slots__ = ("baton", "duty", "gate", "gone", "outcome")

    def __init__(self) -> None:
        self.gate = threading.Lock()
        self.gate.acquire()
        self.gone = False
        self.outcome: Outcome | None = None
        self.duty: Group[_Waiter] | None = None
        """The group whose RPC this caller makes."""
        self.baton: Iterator[_Waiter] | None = None
        """Those whom this caller wakes."""

    def wake(self) -> None:
        """Let the caller look what is new; if it is awake, once more than it would."""
        if self.gate.locked():
            self.gate.release()


Row: TypeAlias = coalescing.Row[_Waiter]


class Coalescer:
    """Lets concurrent callers share RPCs. Thread-safe."""

    def __init__(self, send: Send, budget: Budget, max_message_bytes: int, connections: int) -> None:
        """Make RPCs with `send`; what is repeated only by chance of success is taken from `budget`."""
        self._send = send
        self._budget = budget
        self._lanes: Lanes[_Waiter] = Lanes(max_message_bytes, connections)
        self._lock = threading.Lock()

    def takes(self, image: Loaded) -> bool:
        """Whether an image is small enough to be worth gathering."""
        return self._lanes.takes(image)

    def classify(self, image: Loaded, options: Options, deadline: float, trace: Trace) -> Classification:
        """Classify one image, together with those of other callers when there are any.

        Raises:
            ConvserveError: this image's error, or that of an RPC which would have failed without the others too.
        """
        waiter = _Waiter()
        row = coalescing.Row(image, deadline, trace, waiter)
        with self._lock:
            group = self._lanes.come(row, options, time.monotonic())
            alone = not group.gathering and len(group.rows) == 1
            if not (group.gathering or alone):
                self._appoint(group)
        try:
            if alone:
                (result,) = self._send([image], options, deadline, trace)
                return result
            return self._wait(row, group)
        finally:
            with self._lock:
                if alone:
                    self._returned(group)
                self._leave(row)
            del waiter, row, group  # an error's traceback refers to this frame: the images would wait for the collector

    def _wait(self, row: Row, group: Group[_Waiter]) -> Classification:
        """Wait for the answer, and do what this caller is appointed to. The first of a group watches its window."""
        waiter = row.waiter
        alarm = group.since + coalescing.WINDOW_SECONDS if group.first is row else math.inf
        while waiter.outcome is None:
            if waiter.duty is not None:
                self._drive(waiter.duty, waiter)
                continue
            seconds = min(alarm, row.deadline) - time.monotonic()
            waiter.gate.acquire(timeout=min(max(seconds, 0), threading.TIMEOUT_MAX))
            if waiter.outcome is None and waiter.duty is None:
                with self._lock:
                    now = time.monotonic()
                    alarm = self._watch(group, now) if group.first is row else math.inf
                    late = waiter.duty is None and waiter.outcome is None and now >= row.deadline
                if late:
                    raise DeadlineError("the deadline passed before the answer was there")
        outcome = waiter.outcome
        if not isinstance(outcome, Exception):
            return outcome
        try:
            raise outcome
        finally:
            del outcome, waiter, row, group

    def _watch(self, group: Group[_Waiter], now: float) -> float:
        """Let a group go if its window has ended. Returns when to look again."""
        self._go(self._lanes.due(group, now))
        if not group.gathering:
            return math.inf
        window = group.since + coalescing.WINDOW_SECONDS
        return window if now < window else group.since + coalescing.BUSY_SECONDS

    def _drive(self, group: Group[_Waiter], driver: _Waiter) -> None:
        """Make the group's RPC and hand out what came of it. If this is interrupted, `_leave` finds another driver."""
        with self._lock:
            rows = _waiting(group.rows)
        try:
            parts = self._exchange(group, rows) if rows else []
        except Exception as error:  # noqa: BLE001  # a defect, or the application's token function; everybody is told
            self._settle((row, error) for row in rows)
            parts = []
        with self._lock:
            driver.duty = None
            for part in parts:
                again = [row for row in _waiting(part) if row in group.rows]
                if again:
                    self._appoint(self._lanes.again(group, again))
            self._returned(group)

    def _exchange(self, group: Group[_Waiter], rows: list[Row]) -> list[list[Row]]:
        steps = exchange(rows, self._lanes, self._budget, time.monotonic, self._settle)
        try:
            sending = next(steps)
            while True:
                sending = steps.send(self._outcome(sending, group.lane.options))
        except StopIteration as end:
            parts: list[list[Row]] = end.value
            return parts

    def _outcome(self, rows: Sequence[Row], options: Options) -> list[Classification] | ConvserveError:
        deadline = max(row.deadline for row in rows)
        try:
            return self._send([row.image for row in rows], options, deadline, coalescing.trace_of(rows))
        except ConvserveError as error:
            return error

    def _settle(self, outcomes: Iterable[tuple[Row, Outcome]]) -> None:
        """Hand out outcomes. One caller is woken, who wakes the next: all at once would fight for the GIL."""
        with self._lock:
            waiting: list[_Waiter] = []
            for row, outcome in outcomes:
                waiter = row.waiter
                if waiter.outcome is None:
                    waiter.outcome = outcome
                    if waiter.duty is None:  # else it is the driver, who is awake
                        waiting.append(waiter)
            _wake_one(iter(waiting))

    def _returned(self, group: Group[_Waiter]) -> None:
        """What was sent has come back; those who gathered meanwhile may go now."""
        self._go(self._lanes.returned(group, time.monotonic()))

    def _appoint(self, group: Group[_Waiter]) -> None:
        """Have a caller drive a group that goes now."""
        waiter = group.last.waiter
        waiter.duty = group
        waiter.wake()

    def _go(self, group: Group[_Waiter] | None) -> None:
        """Send a group if there is one."""
        if group is not None:
            self._appoint(group)

    def _leave(self, row: Row) -> None:
        """A caller has its answer or has given up. If it was to do something for others, somebody else does it."""
        waiter, group, duty = row.waiter, row.group, row.waiter.duty
        waiter.gone, waiter.duty = True, None
        if waiter.baton is not None:
            _wake_one(waiter.baton)
        if duty is not None and not any(other is not row for other in _waiting(duty.rows)):
            self._returned(duty)
            duty = None
        watched = group is not None and group.first is row
        self._go(self._lanes.leave(row))
        if duty is not None:
            self._appoint(duty)
        elif watched and group is not None and group.gathering:
            group.rows[0].waiter.wake()


def _wake_one(waiting: Iterator[_Waiter]) -> None:
    """Wake the next of some callers; it wakes the one after it."""
    for waiter in waiting:
        if not waiter.gone:
            waiter.baton = waiting
            waiter.wake()
            return


def _waiting(rows: Iterable[Row]) -> list[Row]:
    """Those who have no answer yet."""
    return [row for row in rows if row.waiter.outcome is None]
