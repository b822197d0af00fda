"""The sending loop on a clock that only moves when the loop waits: servers are functions of time."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from convserve.loadtest import arrivals
from convserve.loadtest.dialects import Answer
from convserve.loadtest.http2 import Reply
from convserve.loadtest.loop import Loop
from convserve.loadtest.pacing import ClosedLoop, OpenLoop, Pacing
from convserve.loadtest.tally import Tally
from convserve.loadtest.workload import Expected, Prepared

REQUESTS = [
    Prepared(bytes([number]), 1, (number,), (Expected((number,), 0.5 + number / 10, "1"),)) for number in range(4)
]


class World:
    """Time, and a server that answers each request when `serve` says."""

    def __init__(self, serve: Callable[[float], float | None], client_delay: float = 0.0) -> None:
        self.now = 0.0
        self.serve = serve
        self.client_delay = client_delay
        self.links: list[FakeLink] = []
        self.refusing = False

    def clock(self) -> float:
        return self.now

    def connect(self) -> Any:
        if self.refusing:
            raise ConnectionRefusedError(111, "Connection refused")
        self.links.append(FakeLink(self))
        return self.links[-1]

    def wait(self, links: Sequence[Any], writers: Sequence[Any], seconds: float) -> Sequence[Any]:
        due = [link.due[0][0] for link in links if link.due]
        self.now = max(min([self.now + seconds, *due]), self.now) + self.client_delay
        return [link for link in links if link.due and link.due[0][0] <= self.now]


class FakeLink:
    """A connection."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.due: list[tuple[float, int, int, bytes]] = []
        self.stream = -1
        self.ready = True
        self.closing = self.closed = self.unsent = False
        self.cancelled: list[int] = []

    def send(self, framed: bytes) -> int:
        self.stream += 2
        done = self.world.serve(self.world.now)
        if done is not None:
            heapq.heappush(self.due, (done, self.stream, 0, framed))
        return self.stream

    def cancel(self, stream: int) -> None:
        self.cancelled.append(stream)

    def flush(self) -> list[Reply]:
        return []

    def receive(self) -> list[Reply]:
        replies = []
        while self.due and self.due[0][0] <= self.world.now:
            _, stream, code, message = heapq.heappop(self.due)
            replies.append(Reply(stream, code, message, "refused" if code else ""))
        return replies

    @property
    def spent(self) -> bool:
        return self.closing and not self.due

    def close(self) -> None:
        self.closed = True


class FakeDialect:
    """A reply is the request's byte."""

    path = "/s/M"
    shift = 0

    def request(self, samples: Sequence[Any], top_k: int = 1) -> bytes:
        raise AssertionError

    def ranking(self, message: bytes) -> Sequence[tuple[int, float]]:
        raise AssertionError

    def answer(self, message: bytes) -> Answer:
        number = (message[0] + self.shift) % 4
        return Answer([number], [0.5 + number / 10], "1", 0.001, 0.0, 0.002, 3)


def play(
    world: World, pacing: Pacing, *, warmup: float = 0.0, seconds: float = 100.0, **changes: Any
) -> tuple[Tally, Loop]:
    """Run a loop to its end; returns what was recorded."""
    tally = Tally(warmup, seconds)
    settings: dict[str, Any] = {
        "connections": 2,
        "timeout": 10.0,
        "first_request": 0,
        "dialect": FakeDialect(),
    } | changes
    loop = Loop(REQUESTS, connect=world.connect, clock=world.clock, wait=world.wait, emit=tally.take, **settings)
    loop.run(pacing, warmup)
    loop.close()
    return tally, loop


def stalling(from_second: float, seconds: float, usual: float = 0.001) -> Callable[[float], float]:
    """A server that answers in `usual` seconds, and stands still for a while."""

    def serve(now: float) -> float:
        if from_second <= now < from_second + seconds:
            return from_second + seconds + usual
        return now + usual

    return serve


def test_a_stall_cannot_hide() -> None:
    """The server stands still for 1 s of 100: of those meant for that second a tenth took 0.9 s or longer.

    A tester that waits for its answers would have seen one slow request in ten thousand.
    """
    open_loop, _ = play(World(stalling(50, 1)), OpenLoop(arrivals.paced(arrivals.constant(100, 100))))
    assert open_loop.requests == 10_000
    assert open_loop.latencies.percentile(0.999) == pytest.approx(0.9, abs=0.02)
    assert open_loop.latencies.percentile(0.985) == pytest.approx(0.001, rel=0.01)
    closed, _ = play(World(stalling(50, 1, usual=0.01)), ClosedLoop(1, 100))
    assert closed.latencies.percentile(0.999) < 0.02 < closed.latencies.maximum


def test_requests_go_when_they_are_due_whatever_the_server_does() -> None:
    """A server that answers nothing gets every request in time all the same."""
    tally, _ = play(World(lambda now: None), OpenLoop(arrivals.paced(arrivals.constant(50, 2))), timeout=1.0)
    assert tally.statuses == {4: 100}
    assert tally.lags.maximum < 1e-5
    assert tally.latencies.count == 0


def test_late_requests_count_from_when_they_were_due() -> None:
    """A client that loses 30 ms whenever it waits sends late; latency holds that time, and the lag tells it."""
    world = World(lambda now: now + 0.001, client_delay=0.03)
    tally, _ = play(world, OpenLoop(arrivals.paced(arrivals.constant(10, 5))))
    assert tally.lags.percentile(0.5) == pytest.approx(0.03, rel=0.1)
    assert tally.latencies.percentile(0.5) >= 0.03


def test_a_closed_loop_keeps_its_callers_busy() -> None:
    """Eight callers, 10 ms an answer, one second: 800 requests, never more than eight at once."""
    world = World(lambda now: now + 0.01)
    tally, _ = play(world, ClosedLoop(8, 1.0), seconds=1.0)
    assert tally.requests == pytest.approx(800, abs=8)
    assert tally.latencies.maximum == pytest.approx(0.01, rel=0.01)


def test_callers_pause_between_requests() -> None:
    """With 30 ms of pause on average after 10 ms of answer a caller asks 25 times a second; pauses are not latency."""
    world = World(lambda now: now + 0.01)
    tally, _ = play(world, ClosedLoop(8, 10.0, pause=0.03, seed=1), seconds=10.0)
    assert tally.requests == pytest.approx(2000, rel=0.1)
    assert tally.latencies.maximum == pytest.approx(0.01, rel=0.01)


def test_a_count_ends_a_closed_loop() -> None:
    """After the warm-up exactly so many requests, however long they take."""
    world = World(lambda now: now + 0.01)
    tally, _ = play(world, ClosedLoop(4, 1.0, count=1000), warmup=1.0, seconds=float("inf"))
    assert tally.requests == 1000


def test_callers_who_were_free_before_the_count_begin_with_it() -> None:
    """A caller free at the end of the warm-up who asks after it belongs to the count: all of it is counted."""
    pacing = ClosedLoop(1, 1.0, count=2)
    assert pacing.take(0.5) == 0.0
    pacing.ended(0.9999)
    assert pacing.take(1.0001) == 1.0
    pacing.ended(1.5)
    assert pacing.take(1.6) == 1.5
    assert pacing.finished(1.7)


def test_warm_up_is_left_out() -> None:
    """Requests meant for the first second are sent and not counted; slow ones among them spoil nothing."""
    world = World(lambda now: now + (0.5 if now < 1 else 0.001))
    tally, _ = play(world, OpenLoop(arrivals.paced(arrivals.constant(100, 3))), warmup=1.0, seconds=2.0)
    assert tally.requests == 200
    assert tally.latencies.maximum == pytest.approx(0.001, rel=0.01)


def test_what_takes_too_long_is_given_up() -> None:
    """Cancelled after the time limit, and counted as DEADLINE_EXCEEDED, which a caller would have seen."""
    world = World(lambda now: None if now < 0.5 else now + 0.001)
    tally, loop = play(world, OpenLoop(arrivals.paced(arrivals.constant(10, 1))), timeout=2.0)
    assert tally.statuses == {4: 5, 0: 5}
    assert sum(len(link.cancelled) for link in world.links) == 5
    assert loop.stats.details[4] == "no answer within 2 s"


def test_every_connection_gets_its_turn() -> None:
    """Requests take the connections in turn."""
    world = World(lambda now: now + 0.001)
    play(world, OpenLoop(arrivals.paced(arrivals.constant(100, 1))), connections=4)
    assert [link.stream for link in world.links] == [49, 49, 49, 49]


def test_a_lost_connection_is_made_anew() -> None:
    """Its calls have failed; while nobody listens requests fail at once; afterwards they are answered again."""
    world = World(lambda now: now + 0.001)

    class Breaking(OpenLoop):
        def take(self, now: float) -> float | None:
            if 1 <= now < 2 and not world.refusing:
                world.refusing = True
                for link in world.links:
                    link.ready, link.closing = False, True
            elif now >= 2:
                world.refusing = False
            return super().take(now)

    tally, loop = play(world, Breaking(arrivals.paced(arrivals.constant(100, 3))), connections=1)
    assert tally.statuses[14] == pytest.approx(100, abs=6)
    assert tally.statuses[0] == pytest.approx(200, abs=6)
    assert tally.requests == 300
    assert "refused" in loop.stats.details[14]


def test_a_server_that_goes_away_is_left_at_once() -> None:
    """It answers what it has and takes no more: what comes next goes over a new connection, before the last answer."""
    world = World(lambda now: now + (5.0 if now < 0.5 else 0.001))

    class Leaving(OpenLoop):
        def take(self, now: float) -> float | None:
            if now >= 0.5:
                world.links[0].ready, world.links[0].closing = False, True
            return super().take(now)

    tally, _ = play(world, Leaving(arrivals.paced(arrivals.constant(10, 1))), connections=1)
    assert tally.statuses == {0: 10}
    assert tally.latencies.percentile(0.4) == pytest.approx(0.001, rel=0.01)
    assert [link.closed for link in world.links] == [True, True]
    assert world.now == pytest.approx(5.4, abs=0.01)


def test_a_closed_loop_does_not_race_against_a_closed_door() -> None:
    """Without a server, callers try again after a while, not as fast as the processor can."""
    world = World(lambda now: now + 0.001)

    class Broken(ClosedLoop):
        def take(self, now: float) -> float | None:
            if not world.refusing:
                world.refusing = True
                for link in world.links:
                    link.ready, link.closing = False, True
            return super().take(now)

    tally, _ = play(world, Broken(2, 1.0), connections=1, seconds=1.0)
    assert 10 < tally.statuses[14] < 60


def test_full_connections_hold_requests_back() -> None:
    """Where the server allows no more calls at once, requests wait for one to end; latency counts the waiting."""

    class Narrow(FakeLink):
        def __getattribute__(self, name: str) -> Any:
            return not self.due if name == "ready" else super().__getattribute__(name)

    class NarrowWorld(World):
        def connect(self) -> Any:
            return Narrow(self)

    world = NarrowWorld(lambda now: now + 0.1)
    tally, _ = play(world, OpenLoop(np.array([0.0, 0.01, 0.02])), connections=1)
    assert tally.statuses == {0: 3}
    assert tally.latencies.maximum == pytest.approx(0.28, rel=0.01)


def test_mixed_up_answers_are_found() -> None:
    """Right answers, but each to another request."""
    dialect = FakeDialect()
    dialect.shift = 1
    world = World(lambda now: now + 0.001)
    _, loop = play(world, OpenLoop(arrivals.paced(arrivals.constant(10, 1))), dialect=dialect)
    assert (loop.stats.check.rows, loop.stats.check.wrong) == (10, 10)
    assert loop.stats.check.right == 0
    assert "came for row 0" in loop.stats.check.first_wrong


def test_answers_that_cannot_be_read_are_errors() -> None:
    """A reply that is no message of the dialect is INTERNAL, with the reason."""

    class Broken(FakeDialect):
        def answer(self, message: bytes) -> Answer:
            raise ValueError("gibberish")

    tally, loop = play(World(lambda now: now), OpenLoop(np.array([0.0])), dialect=Broken())
    assert tally.statuses == {13: 1}
    assert "gibberish" in loop.stats.details[13]


def test_the_servers_account_is_joined() -> None:
    """Queue and run come from the reply; what is left of latency is outside."""
    tally, _ = play(World(lambda now: now + 0.01), OpenLoop(np.array([0.0, 1.0])))
    assert tally.queues.percentile(0.5) == pytest.approx(0.001, rel=0.01)
    assert tally.runs.percentile(0.5) == pytest.approx(0.002, rel=0.01)
    assert tally.outsides.percentile(0.5) == pytest.approx(0.007, rel=0.01)
    assert tally.batch_seconds == {3: [2, pytest.approx(0.004)]}
