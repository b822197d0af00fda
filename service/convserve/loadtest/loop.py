"""One thread that sends requests when they are due and takes answers as they come."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from convserve.clock import Clock
from convserve.loadtest.dialects import UNREADABLE, Dialect
from convserve.loadtest.http2 import Reply
from convserve.loadtest.link import Link
from convserve.loadtest.pacing import Pacing
from convserve.loadtest.records import RECORD, ClientStats, Records
from convserve.loadtest.workload import Prepared

_BURST = 64
"""Requests sent before answers are looked at again."""
_RECONNECT_SECONDS = 0.05
MOST_CONNECTIONS = 1000
"""Of one process: `select` knows file descriptors up to 1,023."""
_REPORT_SECONDS, _REPORT_RECORDS = 0.25, 128
"""Records go when so much time has passed, or so many are there: packing more at once would hold requests up."""
DEADLINE_EXCEEDED, UNAVAILABLE, INTERNAL = 4, 14, 13


class Wait(Protocol):
    """Waits until one of the links can be read, one of `writers` can be written, or time is up."""

    def __call__(self, links: Sequence[Link], writers: Sequence[Link], seconds: float) -> Sequence[Link]:
        """Return the links that can be read."""


class _Call:
    """A request under way."""

    __slots__ = ("intended", "link", "prepared", "sent", "stream")

    def __init__(self, intended: float, sent: float, prepared: Prepared, link: Link, stream: int) -> None:
        self.intended, self.sent, self.prepared, self.link, self.stream = intended, sent, prepared, link, stream


class Loop:
    """Runs one process's share of a load. `run`, once."""

    def __init__(
        self,
        requests: Sequence[Prepared],
        dialect: Dialect,
        connect: Callable[[], Link],
        *,
        connections: int,
        timeout: float,
        first_request: int,
        clock: Clock,
        wait: Wait,
        emit: Callable[[Records], None],
    ) -> None:
        """Connect, so that nothing but requests travels once the clock runs.

        Args:
            requests: sent in turn, again and again.
            dialect: reads replies.
            connect: opens a connection.
            connections: how many; requests take them in turn.
            timeout: seconds after which a request is given up.
            first_request: where in `requests` to begin.
            clock: seconds from the start of the run; below 0 before it.
            wait: waits for links.
            emit: takes records, some times a second.

        Raises:
            OSError: the server cannot be reached.
        """
        self._requests = requests
        self._dialect = dialect
        self._connect = connect
        self._timeout = timeout
        self._at = first_request
        self._clock = clock
        self._wait = wait
        self._emit = emit
        self._links: list[Link | None] = [connect() for _ in range(connections)]
        self._leaving: list[Link] = []
        """Those that take no more calls, until the last one there has ended."""
        self._retry_at = 0.0
        self._turn = 0
        self._calls: dict[tuple[int, int], _Call] = {}
        self._by_age: deque[_Call] = deque()
        self._full = False
        self._records: list[tuple[float | int | bool, ...]] = []
        self._reported = 0.0
        self._waited = 0.0
        self.stats = ClientStats()
        """Complete when `run` has returned."""

    def run(self, pacing: Pacing, warmup: float) -> None:
        """Send until `pacing` has nothing left and every request has ended. Watches itself from `warmup` on."""
        before: tuple[float, ...] | None = None
        while True:
            now = self._clock()
            if before is None and now >= warmup:
                before = self._snapshot(now)
            more = self._send_due(pacing, now)
            self._expire(pacing, now)
            if now - self._reported >= _REPORT_SECONDS or len(self._records) >= _REPORT_RECORDS:
                self._report(now)
            if not more and not self._calls and pacing.finished(now):
                break
            self._await(pacing, 0.0 if more else self._patience(pacing))
        self._report(self._clock())
        after = self._snapshot(self._clock())
        seconds, cpu, waited, starved = (b - a for a, b in zip(before or after, after, strict=True))
        self.stats.seconds, self.stats.cpu_seconds = seconds, cpu
        self.stats.busy_seconds, self.stats.starved_seconds = seconds - waited, starved

    def close(self) -> None:
        """Close the connections."""
        for link in self._all_links():
            link.close()

    def _send_due(self, pacing: Pacing, now: float) -> bool:
        """Send what is due, some at a time. Returns whether more may be."""
        self._full = False
        more = True
        for _ in range(_BURST):
            link = self._choose(now)
            if link is None and self._open_links():
                self.stats.held_back += 1
                self._full = True  # every connection has as many calls as the server allows: one has to end first
            intended = None if self._full else pacing.take(now)
            if intended is None:
                more = False
                break
            if link is None:
                self._note(intended, now, now, UNAVAILABLE, self._next_request(), self.stats.details[UNAVAILABLE])
                pacing.ended(self._retry_at)
            else:
                self._send(link, intended, self._next_request(), now)
        self._flush(pacing)
        return more

    def _next_request(self) -> Prepared:
        prepared = self._requests[self._at % len(self._requests)]
        self._at += 1
        return prepared

    def _send(self, link: Link, intended: float, prepared: Prepared, now: float) -> None:
        stream = link.send(prepared.framed)
        call = _Call(intended, now, prepared, link, stream)
        self._calls[id(link), stream] = call
        self._by_age.append(call)

    def _choose(self, now: float) -> Link | None:
        """The next link in turn that can take a call; opens those anew that were lost."""
        count = len(self._links)
        for step in range(1, count + 1):
            at = (self._turn + step) % count
            link = self._links[at]
            if link is None and now >= self._retry_at:
                try:
                    link = self._links[at] = self._connect()
                except OSError as error:
                    self.stats.details.setdefault(UNAVAILABLE, f"cannot connect: {error}")
                    self._retry_at = now + _RECONNECT_SECONDS
            if link is not None and link.ready:
                self._turn = at
                return link
        return None

    def _flush(self, pacing: Pacing) -> None:
        for link in self._all_links():
            if link.unsent and (lost := link.flush()):
                self._complete(pacing, link, lost, self._clock())

    def _await(self, pacing: Pacing, seconds: float) -> None:
        """Wait for answers, or until the next thing is to be done, and take what came."""
        links = self._all_links()
        writers = [link for link in links if link.unsent]
        begun = self._clock()
        readable = self._wait(links, writers, seconds)
        now = self._clock()
        self._waited += now - begun
        for link in readable:
            self._complete(pacing, link, link.receive(), now)
        for at, slot in enumerate(self._links):
            few = len(self._links) + len(self._leaving) < MOST_CONNECTIONS
            if slot is not None and slot.closing and (few or slot.spent):
                self._leaving.append(slot)
                self._links[at] = None
        for link in [link for link in self._leaving if link.spent]:
            link.flush()
            link.close()
            self._leaving.remove(link)

    def _patience(self, pacing: Pacing) -> float:
        """Seconds until something is to be done even if no answer comes."""
        now = self._clock()
        due = None if self._full else pacing.next_due(now)
        patience = _REPORT_SECONDS if due is None else min(due - now, _REPORT_SECONDS)
        if self._by_age:
            patience = min(patience, self._by_age[0].sent + self._timeout - now)
        return max(patience, 0.0)

    def _complete(self, pacing: Pacing, link: Link, replies: Sequence[Reply], now: float) -> None:
        for reply in replies:
            call = self._calls.pop((id(link), reply.stream), None)
            if call is None:
                continue
            if reply.code:
                self._note(call.intended, call.sent, now, reply.code, call.prepared, reply.detail)
                pacing.ended(now)
                continue
            try:
                answer = self._dialect.answer(reply.message)
            except UNREADABLE as error:
                detail = f"the reply cannot be read: {error}"
                self._note(call.intended, call.sent, now, INTERNAL, call.prepared, detail)
                pacing.ended(now)
                continue
            good = self.stats.check.compare(call.prepared, answer)
            split = (answer.queue_seconds, answer.wait_seconds, answer.run_seconds, answer.batch_rows)
            self._records.append((call.intended, call.sent, now, 0, good, call.prepared.rows, *split))
            pacing.ended(now)

    def _expire(self, pacing: Pacing, now: float) -> None:
        """Give up what has taken too long; forget what has ended."""
        while self._by_age:
            call = self._by_age[0]
            key = (id(call.link), call.stream)
            if self._calls.get(key) is call:
                if call.sent + self._timeout > now:
                    return
                del self._calls[key]
                call.link.cancel(call.stream)
                detail = f"no answer within {self._timeout:g} s"
                self._note(call.intended, call.sent, now, DEADLINE_EXCEEDED, call.prepared, detail)
                pacing.ended(now)
            self._by_age.popleft()

    def _note(self, intended: float, sent: float, now: float, code: int, prepared: Prepared, detail: str) -> None:
        """Note a request that failed."""
        self.stats.details.setdefault(code, detail)
        self._records.append((intended, sent, now, code, True, prepared.rows, -1.0, -1.0, -1.0, 0))

    def _report(self, now: float) -> None:
        self._reported = now
        if self._records:
            self._emit(np.array(self._records, RECORD))
            self._records = []

    def _open_links(self) -> list[Link]:
        return [link for link in self._links if link is not None]

    def _all_links(self) -> list[Link]:
        return self._open_links() + self._leaving

    def _snapshot(self, now: float) -> tuple[float, ...]:
        return now, time.process_time(), self._waited, _starved_seconds()


def _starved_seconds() -> float:
    """Seconds that this process's threads were runnable and not running, so far (Linux)."""
    try:
        return sum(int(path.read_text().split()[1]) for path in Path("/proc/self/task").glob("*/schedstat")) / 1e9
    except (OSError, IndexError, ValueError):
        return 0.0
