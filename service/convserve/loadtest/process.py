"""A client process: `python -m convserve.loadtest.process FD`, started by the fleet. Imports no gRPC.

::

    fleet -> Setup      what to send, and where
          <- "ready"    or an error
          -> Share      this process's part of a run
          <- "ready"    connected
          -> start      a reading of the machine's monotonic clock
          <- records, records, ..., ClientStats
"""

from __future__ import annotations

import ctypes
import gc
import select
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection

from convserve.loadtest import arrivals, dialects
from convserve.loadtest.arrivals import Profile
from convserve.loadtest.link import Link, Target
from convserve.loadtest.loop import Loop
from convserve.loadtest.pacing import ClosedLoop, OpenLoop, Pacing
from convserve.loadtest.workload import Prepared

_PR_SET_TIMERSLACK = 29


@dataclass(frozen=True)
class Setup:
    """What all runs of a process have in common."""

    target: Target
    wanted: dialects.Wanted
    requests: Sequence[Prepared]


@dataclass(frozen=True)
class Load:
    """One run, whole. Either `profile` (open loop) or `callers` (closed loop)."""

    warmup: float
    """Seconds at the beginning that are not counted."""
    seconds: float
    """Seconds that are."""
    connections: int
    """Over all processes."""
    profile: Profile | None = None
    """Requests per second over time, warm-up included."""
    poisson: bool = True
    """Whether arrivals are random; else evenly spaced."""
    callers: int = 0
    """Requests in flight, over all processes."""
    pause: float = 0.0
    """Mean seconds that a caller waits between an answer and its next request; without `count`."""
    count: int | None = None
    """Closed loop: so many requests after the warm-up, however long it takes."""
    seed: int = 0


@dataclass(frozen=True)
class Share:
    """The part of a run that one of several processes plays."""

    load: Load
    part: int
    parts: int

    def pacing(self) -> Pacing:
        """When its requests go."""
        load = self.load
        if load.profile is not None:
            if load.poisson:
                return OpenLoop(arrivals.poisson(load.profile, load.seed, self.part, self.parts))
            return OpenLoop(arrivals.paced(load.profile, self.part, self.parts))
        callers = len(range(self.part, load.callers, self.parts))
        if load.count is not None:
            return ClosedLoop(callers, load.warmup, len(range(self.part, load.count, self.parts)))
        whole = load.warmup + load.seconds
        return ClosedLoop(callers, whole, pause=load.pause, seed=load.seed * self.parts + self.part)

    @property
    def connections(self) -> int:
        """Connections of this process, at least one."""
        return max(len(range(self.part, self.load.connections, self.parts)), 1)


def wait(links: Sequence[Link], writers: Sequence[Link], seconds: float) -> Sequence[Link]:
    """Wait with `select`: unlike `epoll`, its time limit is finer than a millisecond."""
    return select.select(links, writers, (), seconds)[0]


def main(pipe: Connection) -> None:
    """Do what the fleet says until it hangs up."""
    _sharpen_timers()
    setup: Setup = pipe.recv()
    dialect = dialects.make(setup.wanted)
    gc.freeze()
    gc.disable()  # a collection would delay requests; nothing here makes cycles
    while True:
        try:
            share: Share = pipe.recv()
        except EOFError:
            return
        _play(pipe, setup, dialect, share)


def _play(pipe: Connection, setup: Setup, dialect: dialects.Dialect, share: Share) -> None:
    pacing = share.pacing()
    begin = 0.0

    def clock() -> float:
        return time.monotonic() - begin

    try:
        loop = Loop(
            setup.requests,
            dialect,
            lambda: Link(setup.target, dialect.path),
            connections=share.connections,
            timeout=setup.target.timeout,
            first_request=share.part * len(setup.requests) // share.parts,
            clock=clock,
            wait=wait,
            emit=pipe.send,
        )
    except OSError as error:
        pipe.send(f"{setup.target.authority} cannot be reached: {error}")
        return
    pipe.send("ready")
    begin = pipe.recv()
    time.sleep(max(begin - time.monotonic(), 0))
    try:
        loop.run(pacing, share.load.warmup)
        pipe.send(loop.stats)
    finally:
        loop.close()


def _sharpen_timers() -> None:
    """Have Linux wake this process when it asked to be woken, not up to 50 µs later."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_TIMERSLACK, 1, 0, 0, 0)


if __name__ == "__main__":
    try:
        main(Connection(int(sys.argv[1])))
    except (KeyboardInterrupt, EOFError, BrokenPipeError, ConnectionResetError):  # the fleet tells the user
        sys.exit(130)
