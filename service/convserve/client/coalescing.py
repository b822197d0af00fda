"""Which single images travel together. Pure: `now` comes in, nothing waits and nothing is sent.

The rule is the server's own pull batching, one step earlier. When no RPC of a lane is under way, an image goes at once
and alone: a lone caller pays nothing. While some are under way, images gather. They go together when nothing is under
way any more, when the window of the first of them ends, or when they are full. If every connection has an RPC under
way when the window ends, they wait until one returns: sending more would only make each group smaller and each RPC
slower. So groups are as large as the load makes them.

Callers who all wait for one RPC come back together, and the server would have nothing to do until they do. So while
no more than one RPC is under way, half of the callers seen lately are enough for the next: client and server work at
the same time. The first who comes back would find nothing under way and go alone, although the others follow: so while
some have an answer that they have not taken yet, images gather too.

A lane is what images must have in common: model, version, top_k, explain, and being files or pixels of one shape.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from convserve.client.images import Loaded
from convserve.client.requests import MAX_ROWS, Kind, Options, kind_of, size_of
from convserve.client.tracing import Trace

W = TypeVar("W")

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
    lane: Lane[W] | None = None
    """What it has in common with others; set when it comes."""
    group: Group[W] | None = None
    """The images it travels with, until they have come back."""


@dataclass(eq=False, slots=True)
class Group(Generic[W]):
    """Images that travel in one RPC."""

    lane: Lane[W]
    """What they have in common."""
    rows: list[Row[W]] = field(default_factory=list)
    """The images whose callers still wait, in the order they came."""
    since: float = 0.0
    """When the first of them came."""
    gathering: bool = True
    """Whether more may join."""

    @property
    def first(self) -> Row[W] | None:
        """The row that came first, while more may join."""
        return self.rows[0] if self.gathering and self.rows else None

    @property
    def last(self) -> Row[W]:
        """The row whose caller waits longest; of equals, the one that came last."""
        return max(reversed(self.rows), key=lambda row: row.deadline)


@dataclass(eq=False, slots=True)
class Lane(Generic[W]):
    """Images that may travel together."""

    options: Options
    """What their callers want."""
    under_way: int = 0
    """RPCs."""
    group: Group[W] | None = None
    """What gathers."""
    inside: int = 0
    """Callers who have come and not left."""
    answered: int = 0
    """Those of them whose RPC has returned. They are about to leave, and may come again."""
    callers: int = 0
    """The most that were inside at a time lately. 0: not known."""

    def has_enough(self, group: Group[W]) -> bool:
        """Whether what gathers may go before its window ends."""
        if self.under_way > 1:
            return False
        return 2 * len(group.rows) >= self.callers > 0 or not (self.under_way or self.answered)


class Lanes(Generic[W]):
    """Who goes now and who waits. Not thread-safe."""

    def __init__(self, max_message_bytes: int, connections: int, max_rows: int = MAX_ROWS) -> None:
        """Gather at most `max_rows` rows, which fit a message; RPCs can travel over so many connections."""
        self.max_rows = max_rows
        """Rows of a full group; lowered when a server turns out to take less."""
        self._image_bytes = min(IMAGE_BYTES, max_message_bytes // (max_rows + 1))
        self._connections = connections
        self._lanes: dict[tuple[Options, Kind], Lane[W]] = {}

    def __len__(self) -> int:
        """Lanes in use."""
        return sum(lane.under_way > 0 for lane in self._lanes.values())

    def takes(self, image: Loaded) -> bool:
        """Whether an image is small enough to be worth gathering."""
        return size_of(image) <= self._image_bytes

    def come(self, row: Row[W], options: Options, now: float) -> Group[W]:
        """An image has come. Returns the group that it joined, which goes now if `gathering` is False.

        When that has gone, tell `returned` that it is back. In any case, let the row `leave`.
        """
        key = options, kind_of(row.image)
        lane = self._lanes.get(key) or self._open(key)
        group = lane.group
        if group is None:
            lane.group = group = Group(lane, since=now)
        lane.inside += 1
        group.rows.append(row)
        row.lane, row.group = lane, group
        if lane.has_enough(group) or len(group.rows) >= self.max_rows:
            self.release(group)
        return group

    def _open(self, key: tuple[Options, Kind]) -> Lane[W]:
        if len(self._lanes) >= _IDLE_LANES:
            self._lanes = {key: lane for key, lane in self._lanes.items() if lane.under_way or lane.inside}
        made = self._lanes[key] = Lane(key[0])
        return made

    def returned(self, group: Group[W], now: float) -> Group[W] | None:
        """What was sent has come back. Returns the group that goes now."""
        lane = group.lane
        lane.callers = max(lane.inside, lane.callers + -lane.callers // _FORGETS)
        lane.under_way -= 1
        for row in group.rows:
            if row.group is group:  # else it goes again
                row.group = None
                lane.answered += 1
        group.rows = []  # rows and group refer to each other: the garbage collector would have to find them
        gathering = lane.group
        if gathering is None:
            return None
        if lane.has_enough(gathering) and self.release(gathering):
            return gathering
        return self.due(gathering, now)

    def due(self, group: Group[W], now: float) -> Group[W] | None:
        """Let a group go if it has waited long enough; returns it if so."""
        waited = now - group.since + CLOCK_SECONDS
        long_enough = BUSY_SECONDS if group.lane.under_way >= self._connections else WINDOW_SECONDS
        return group if waited >= long_enough and self.release(group) else None

    def release(self, group: Group[W]) -> bool:
        """Let a group go. False if it went before."""
        if not group.gathering:
            return False
        group.lane.group = None
        group.gathering = False
        group.lane.under_way += 1
        return True

    def leave(self, row: Row[W]) -> Group[W] | None:
        """A caller has its answer or has given up, which does nothing to what is on its way. Once for each that came.

        Returns the group that goes now.
        """
        lane, group = row.lane, row.group
        if lane is None:
            raise AssertionError("a row that never came cannot leave")
        lane.inside -= 1
        row.lane = row.group = None
        if group is None:
            lane.answered -= 1
            gathering = lane.group
            return gathering if gathering and lane.has_enough(gathering) and self.release(gathering) else None
        group.rows.remove(row)
        if group.gathering and not group.rows:
            group.gathering = False
            lane.group = None
        return None

    def again(self, group: Group[W], rows: list[Row[W]]) -> Group[W]:
        """Some rows of a group go again, in an RPC of their own."""
        made = Group(group.lane, rows, gathering=False)
        group.lane.under_way += 1
        for row in rows:
            row.group = made
        return made

    def refused(self, count: int) -> None:
        """A server refused so many images at once, and took one of them alone: it takes less."""
        self.max_rows = max(1, min(self.max_rows, count // 2))


def trace_of(rows: Iterable[Row[W]]) -> Trace:
    """The trace context that an RPC carries: that of its first caller who has one."""
    return next((row.trace for row in rows if row.trace), ())
