"""Which single images travel together. Pure: `now` comes in, nothing waits and nothing is sent.

The rule is the server's own pull batching, one step earlier. When no RPC of a lane is under way, an image goes at once
and alone: a lone caller pays nothing. While some are under way, images gather. They go together when nothing is under
way any more, when the window of the first of them ends, or when they are full. If every connection has an RPC under
way when the window ends, they wait until one returns: sending more would only make each group smaller and each RPC
slower. So groups are as large as the load makes them.

Callers who all wait for one RPC come back together, and the server would have nothing to do until they do. So while
one RPC is under way, half of the callers seen lately are enough for the next: client and server work at the same time.

A lane is what images must have in common: model, version, top_k, explain, and being files or pixels of one shape.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Generic, TypeAlias, TypeVar

from convserve.client.images import Loaded
from convserve.client.requests import MAX_ROWS, Kind, Options, kind_of, size_of
from convserve.client.tracing import Trace

W = TypeVar("W")

Lane: TypeAlias = tuple[Options, Kind]
"""What images must have in common to travel together."""

WINDOW_SECONDS = 0.001
"""How long images wait for others while an RPC is under way, counted from the first that waits."""

BUSY_SECONDS = 0.02
"""Longest time that they wait when every connection is busy. Ends the wait when a server hangs."""

_FORGETS = 8
"""The number of callers seen before loses one part of so many with each RPC that returns."""

_IDLE_LANES = 64
"""Lanes that are remembered although nothing is in them."""

CLOCK_SECONDS = 1e-6
"""How much too early a timer may be."""

IMAGE_BYTES = 64 * 2**10
"""Larger images travel alone: the RPC is a small part of their cost, and the server decodes the files of one RPC one
after the other."""


@dataclass(eq=False, slots=True)
class Row(Generic[W]):
    """One caller's image on its way."""

    image: Loaded
    """The image, read."""
    deadline: float
    """When the caller gives up; reading of the caller's clock."""
    trace: Trace
    """The caller's trace context."""
    waiter: W
    """Where the caller waits; means nothing here."""
    group: Group[W] | None = None
    """The images it travels with."""


@dataclass(eq=False, slots=True)
class Group(Generic[W]):
    """Images that travel in one RPC."""

    lane: Lane
    """What they have in common."""
    rows: list[Row[W]] = field(default_factory=list)
    """The images whose callers still wait, in the order they came."""
    since: float = 0.0
    """When the first of them came."""
    gathering: bool = True
    """Whether more may join."""
    sent: int = 0
    """Rows that it went with."""

    @property
    def options(self) -> Options:
        """What their callers want."""
        return self.lane[0]

    @property
    def first(self) -> Row[W] | None:
        """The row that came first, while more may join."""
        return self.rows[0] if self.gathering and self.rows else None

    @property
    def last(self) -> Row[W]:
        """The row whose caller waits longest; of equals, the one that came last."""
        return max(reversed(self.rows), key=lambda row: row.deadline)


@dataclass(eq=False, slots=True)
class _Lane(Generic[W]):
    single: Group[W]
    """Stands for an image that goes alone: one at a time, so one object does."""
    under_way: int = 0
    """RPCs."""
    rows_under_way: int = 0
    group: Group[W] | None = None
    """What gathers."""
    callers: int = 0
    """The most that were here at a time lately. 0: not known."""

    def sends(self, group: Group[W]) -> None:
        self.under_way += 1
        self.rows_under_way += group.sent

    def takes_back(self, group: Group[W]) -> None:
        here = self.rows_under_way + (len(self.group.rows) if self.group else 0)
        self.callers = max(here, self.callers + -self.callers // _FORGETS)
        self.under_way -= 1
        self.rows_under_way -= group.sent

    def has_enough(self, group: Group[W]) -> bool:
        """Whether a group may go before its window ends."""
        return not self.under_way or (self.under_way == 1 and 2 * len(group.rows) >= self.callers > 0)


class Lanes(Generic[W]):
    """Who goes now and who waits. Not thread-safe."""

    def __init__(self, max_message_bytes: int, connections: int, max_rows: int = MAX_ROWS) -> None:
        """Gather at most `max_rows` rows, which fit a message; RPCs can travel over so many connections."""
        self.max_rows = max_rows
        """Rows of a full group; lowered when a server turns out to take less."""
        self._image_bytes = min(IMAGE_BYTES, max_message_bytes // (max_rows + 1))
        self._connections = connections
        self._lanes: dict[Lane, _Lane[W]] = {}

    def __len__(self) -> int:
        """Lanes in use."""
        return sum(lane.under_way > 0 for lane in self._lanes.values())

    def takes(self, image: Loaded) -> bool:
        """Whether an image is small enough to be worth gathering."""
        return size_of(image) <= self._image_bytes

    def alone(self, lane: Lane) -> Group[W] | None:
        """An image has come. If nothing of its lane is under way, it goes at once: tell `returned` when it is back.

        None: let it `gather`.
        """
        found = self._lanes.get(lane) or self._open(lane)
        if found.under_way:
            return None
        found.sends(found.single)
        return found.single

    def gather(self, row: Row[W], lane: Lane, now: float) -> Group[W]:
        """Let an image wait for others. Returns the group that it joined, which goes now if `gathering` is False.

        When it has gone, `returned` must be told that it is back.
        """
        found = self._lanes.get(lane) or self._open(lane)
        group = found.group
        if group is None:
            found.group = group = Group(lane, since=now)
        group.rows.append(row)
        row.group = group
        if len(group.rows) >= self.max_rows or found.has_enough(group):
            self.release(group)
        return group

    def _open(self, lane: Lane) -> _Lane[W]:
        if len(self._lanes) >= _IDLE_LANES:
            self._lanes = {key: found for key, found in self._lanes.items() if found.under_way}
        made = self._lanes[lane] = _Lane(Group(lane, gathering=False, sent=1))
        return made

    def returned(self, group: Group[W], now: float) -> Group[W] | None:
        """What was sent has come back. Returns the group that goes now."""
        lane = self._lanes[group.lane]
        lane.takes_back(group)
        group.rows = []  # rows and group refer to each other: the garbage collector would have to find them
        gathering = lane.group
        if gathering is None:
            return None
        if lane.has_enough(gathering) and self.release(gathering):
            return gathering
        return self.due(gathering, now)

    def due(self, group: Group[W], now: float) -> Group[W] | None:
        """Let a group go if it has waited long enough; returns it if so."""
        busy = self._lanes[group.lane].under_way >= self._connections if group.gathering else False
        waited = now - group.since + CLOCK_SECONDS
        return group if waited >= (BUSY_SECONDS if busy else WINDOW_SECONDS) and self.release(group) else None

    def release(self, group: Group[W]) -> bool:
        """Let a group go. False if it went before."""
        if not group.gathering:
            return False
        lane = self._lanes[group.lane]
        lane.group = None
        group.gathering = False
        group.sent = len(group.rows)
        lane.sends(group)
        return True

    def leave(self, row: Row[W]) -> None:
        """A caller has given up. Does nothing to what is on its way."""
        group = row.group
        if group is None or row not in group.rows:
            return
        group.rows.remove(row)
        if group.gathering and not group.rows:
            group.gathering = False
            self._lanes[group.lane].group = None

    def again(self, group: Group[W], rows: list[Row[W]]) -> Group[W]:
        """Some rows of a group go again, in an RPC of their own."""
        made = Group(group.lane, rows, gathering=False, sent=len(rows))
        self._lanes[group.lane].sends(made)
        for row in rows:
            row.group = made
        return made

    def refused(self, count: int) -> None:
        """A server refused so many images at once, and took one of them alone: it takes less."""
        self.max_rows = max(1, min(self.max_rows, count // 2))


def lane_of(image: Loaded, options: Options) -> Lane:
    """Where an image goes that is wanted like this."""
    return options, kind_of(image)


def trace_of(rows: Iterable[Row[W]]) -> Trace:
    """The trace context that an RPC carries: that of its first caller who has one."""
    return next((row.trace for row in rows if row.trace), ())
