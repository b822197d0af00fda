"""Tasks around `coalescing`: single images of concurrent callers travel as one RPC.

A lone caller's RPC is made by its own task. A group's RPC is made by a task of its own, so that a caller who is
cancelled or late takes nothing from the others; when all of them have gone, the task is cancelled.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import TypeAlias

from convserve.client import coalescing
from convserve.client.coalescing import Group, Lanes
from convserve.client.images import Loaded
from convserve.client.requests import Options
from convserve.client.results import Classification
from convserve.client.retry import Budget
from convserve.client.splitting import Outcome, exchange
from convserve.client.tracing import Trace
from convserve.errors import CancelledError, ConvserveError, DeadlineError

Send: TypeAlias = Callable[[Sequence[Loaded], Options, float, Trace], Awaitable[list[Classification]]]
"""Classifies images in one RPC, until a deadline, with a trace context. Raises ConvserveError."""

Waiter: TypeAlias = "asyncio.Future[Classification]"
Row: TypeAlias = coalescing.Row[Waiter]


class Coalescer:
    """Lets concurrent callers of one event loop share RPCs."""

    def __init__(self, send: Send, budget: Budget, max_message_bytes: int, connections: int) -> None:
        """Make RPCs with `send`; what is repeated only by chance of success is taken from `budget`."""
        self._send = send
        self._budget = budget
        self._lanes: Lanes[Waiter] = Lanes(max_message_bytes, connections)
        self._tasks: dict[Group[Waiter], asyncio.Task[None]] = {}
        self._waiting: set[Group[Waiter]] = set()
        self._alarm: asyncio.TimerHandle | None = None

    def takes(self, image: Loaded) -> bool:
        """Whether an image is small enough to be worth gathering."""
        return self._lanes.takes(image)

    async def close(self) -> None:
        """Wait for the tasks, whose RPCs have been ended."""
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        if self._alarm is not None:
            self._alarm.cancel()

    async def classify(self, image: Loaded, options: Options, deadline: float, trace: Trace) -> Classification:
        """Classify one image, together with those of other callers when there are any.

        Raises:
            ConvserveError: this image's error, or that of an RPC which would have failed without the others too.
        """
        loop = asyncio.get_running_loop()
        row: Row = coalescing.Row(image, deadline, trace, loop.create_future())
        group = self._lanes.come(row, options, loop.time())
        try:
            if not group.gathering and len(group.rows) == 1:
                try:
                    (result,) = await self._send([image], options, deadline, trace)
                finally:
                    self._returned(group)
                return result
            if not isinstance(image, bytes):
                row.image = image.copy()  # it is read later, and the caller may use the array again by then
            if group.first is row:
                self._waiting.add(group)
                loop.call_at(group.since + coalescing.WINDOW_SECONDS, self._window_ends, group)
            if not group.gathering:
                self._go(group)
            self._watch(deadline)
            return await row.waiter
        finally:
            self._leave(row)
            del row, group  # an error's traceback refers to this frame: the images would wait for the collector

    def _watch(self, deadline: float) -> None:
        """See to it that somebody looks at the clock at a deadline: one timer for all callers."""
        if deadline == math.inf or (self._alarm is not None and self._alarm.when() <= deadline):
            return
        if self._alarm is not None:
            self._alarm.cancel()
        self._alarm = asyncio.get_running_loop().call_at(deadline, self._tell_the_late)

    def _tell_the_late(self) -> None:
        self._alarm = None
        now = asyncio.get_running_loop().time() + coalescing.CLOCK_SECONDS
        waiting = [row for group in self._waiting for row in group.rows if not row.waiter.done()]
        for row in waiting:
            if row.deadline <= now:
                row.waiter.set_exception(DeadlineError("the deadline passed before the answer was there"))
        self._watch(min((row.deadline for row in waiting if row.deadline > now), default=math.inf))

    def _window_ends(self, group: Group[Waiter]) -> None:
        loop = asyncio.get_running_loop()
        self._go(self._lanes.due(group, loop.time()))
        if group.gathering:
            loop.call_at(group.since + coalescing.BUSY_SECONDS, self._window_ends, group)

    def _go(self, group: Group[Waiter] | None) -> None:
        """Send a group if there is one."""
        if group is not None:
            task = self._tasks[group] = asyncio.create_task(self._drive(group))
            task.add_done_callback(lambda _: self._cancelled(group))

    async def _drive(self, group: Group[Waiter]) -> None:
        """Make the group's RPC and hand out what came of it."""
        rows, parts = [row for row in group.rows if not row.waiter.done()], list[list[Row]]()
        try:
            parts = await self._exchange(group, rows) if rows else []
        except Exception as error:  # noqa: BLE001  # a defect, or the application's token function; everybody is told
            _settle((row, error) for row in rows)
        self._ended(group, parts)  # now, and not when the task is done: callers may come back before that

    def _cancelled(self, group: Group[Waiter]) -> None:
        """A task is done; if it did not say so itself, it was cancelled, maybe before it began.

        By `_leave`, or by whoever cancels all tasks of the event loop: those who still wait would wait for ever.
        """
        if group in self._tasks:
            _settle((row, CancelledError("the task that made the RPC was cancelled")) for row in group.rows)
            self._ended(group)

    def _ended(self, group: Group[Waiter], parts: Iterable[list[Row]] = ()) -> None:
        if self._tasks.pop(group, None) is not None:
            self._returned(group, parts)

    async def _exchange(self, group: Group[Waiter], rows: list[Row]) -> list[list[Row]]:
        steps = exchange(rows, self._lanes, self._budget, asyncio.get_running_loop().time, _settle)
        try:
            sending = next(steps)
            while True:
                sending = steps.send(await self._outcome(sending, group.lane.options))
        except StopIteration as end:
            parts: list[list[Row]] = end.value
            return parts

    async def _outcome(self, rows: Sequence[Row], options: Options) -> list[Classification] | ConvserveError:
        deadline = max(row.deadline for row in rows)
        try:
            return await self._send([row.image for row in rows], options, deadline, coalescing.trace_of(rows))
        except ConvserveError as error:
            return error

    def _returned(self, group: Group[Waiter], parts: Iterable[list[Row]] = ()) -> None:
        """What was sent has come back; some rows may go again, and those who gathered meanwhile may go now."""
        for rows in parts:
            waiting = [row for row in rows if row in group.rows and not row.waiter.done()]
            if waiting:
                made = self._lanes.again(group, waiting)
                self._waiting.add(made)
                self._go(made)
        self._waiting.discard(group)
        self._go(self._lanes.returned(group, asyncio.get_running_loop().time()))

    def _leave(self, row: Row) -> None:
        """A caller has its answer or has given up. What nobody waits for any more is cancelled."""
        group = row.group
        self._go(self._lanes.leave(row))
        if group is None or not all(other.waiter.done() for other in group.rows):
            return
        if group in self._tasks:
            self._tasks[group].cancel()
        elif not group.rows:
            self._waiting.discard(group)


def _settle(outcomes: Iterable[tuple[Row, Outcome]]) -> None:
    for row, outcome in outcomes:
        if not row.waiter.done():
            if isinstance(outcome, Exception):
                row.waiter.set_exception(outcome)
            else:
                row.waiter.set_result(outcome)
