"""Several server processes and one device, event by event: a session in each, or one process that executes for all.

::

    own sessions:  arrival -> front end -> its queue -> the device, in turns -> front end -> answer
    one executor:  arrival -> front end -> executor -> one queue -> the device -> executor -> front end -> answer

Every process has one core, which does one thing at a time in the order in which it came up. The device runs one batch
at a time, first come first served: that is how processes share a GPU, whose contexts take turns.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Device:
    """What runs the batches: `fixed + each * n` seconds for n rows."""

    fixed: float
    each: float
    most: int = 64
    """Rows of a batch."""
    switch: float = 0.0
    """Seconds in addition when the batch before was another process's."""
    drive: float = 0.0
    """Seconds of every batch in which the process that started it has its core busy with that."""


@dataclass(frozen=True)
class Costs:
    """Seconds on the cores of processes."""

    handling: float
    """Of a front end for each request, half on the way in and half on the way out."""
    row: float = 0.0
    """Of either side for handing a row over to another process, or its answer."""
    message: float = 0.0
    """Of either side for each message with answers of a batch; a front end gets one for its rows."""
    hop: float = 0.0
    """Between sending and being noticed, on nobody's core."""


Arrival = tuple[float, int]
"""When, in seconds, and at which front end."""


def poisson(rate: float, seconds: float, front_ends: int, seed: int) -> list[Arrival]:
    """Requests at random moments, each at one of the front ends by chance."""
    random = np.random.default_rng(seed)
    times = np.sort(random.uniform(0, seconds, random.poisson(rate * seconds)))
    return list(zip(times.tolist(), random.integers(0, front_ends, len(times)).tolist(), strict=True))


def own_sessions(arrivals: Sequence[Arrival], front_ends: int, device: Device, costs: Costs) -> npt.NDArray[np.float64]:
    """Latencies in seconds, in the order of the arrivals, when each front end has a session and a queue of its own.

    A front end has one batch under way at a time, and forms the next one of what waits when the one before is done and
    its core gets to it.
    """
    return _OwnSessions(arrivals, front_ends, device, costs).play()


def one_executor(arrivals: Sequence[Arrival], front_ends: int, device: Device, costs: Costs) -> npt.NDArray[np.float64]:
    """Latencies in seconds, in the order of the arrivals, when a further process has the one session and queue."""
    return _OneExecutor(arrivals, front_ends, device, costs).play()


class _Core:
    """Does one thing at a time."""

    def __init__(self, after: Callable[..., None]) -> None:
        self._after = after
        self._tasks: deque[tuple[float, Callable[..., None], tuple[Any, ...]]] = deque()
        self._busy = False

    def do(self, seconds: float, then: Callable[..., None], *arguments: Any) -> None:
        """Work so long, after what came up before."""
        self._tasks.append((seconds, then, arguments))
        self._begin()

    def do_first(self, seconds: float) -> None:
        """Work so long, before everything but what is under way."""
        self._tasks.appendleft((seconds, _nothing, ()))
        self._begin()

    def _begin(self) -> None:
        if not self._busy and self._tasks:
            self._busy = True
            seconds, then, arguments = self._tasks.popleft()
            self._after(seconds, self._end, then, arguments)

    def _end(self, then: Callable[..., None], arguments: tuple[Any, ...]) -> None:
        then(*arguments)
        self._busy = False
        self._begin()


class _Simulation:
    """The clock, the front ends' cores, and the answers."""

    def __init__(self, arrivals: Sequence[Arrival], front_ends: int, device: Device, costs: Costs) -> None:
        self._arrivals = arrivals
        self._device = device
        self._costs = costs
        self._now = 0.0
        self._numbers = count()
        self._events: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._cores = [_Core(self._after) for _ in range(front_ends)]
        self._latencies = np.full(len(arrivals), np.inf)

    def play(self) -> npt.NDArray[np.float64]:
        for number, (time, front_end) in enumerate(self._arrivals):
            self._work_until(time)
            self._now = time
            self._arrive(number, front_end)
        self._work_until(np.inf)
        return self._latencies

    def _work_until(self, time: float) -> None:
        while self._events and self._events[0][0] <= time:
            self._now, _, then, arguments = heapq.heappop(self._events)
            then(*arguments)

    def _after(self, seconds: float, then: Callable[..., None], *arguments: Any) -> None:
        heapq.heappush(self._events, (self._now + seconds, next(self._numbers), then, arguments))

    def _answer(self, number: int) -> None:
        self._latencies[number] = self._now - self._arrivals[number][0]

    def _arrive(self, number: int, front_end: int) -> None:
        raise NotImplementedError


class _OwnSessions(_Simulation):
    def __init__(self, arrivals: Sequence[Arrival], front_ends: int, device: Device, costs: Costs) -> None:
        super().__init__(arrivals, front_ends, device, costs)
        self._queues: list[deque[int]] = [deque() for _ in range(front_ends)]
        self._under_way = [False] * front_ends
        self._turns: deque[tuple[int, list[int]]] = deque()
        self._running = False
        self._last = -1

    def _arrive(self, number: int, front_end: int) -> None:
        self._cores[front_end].do(self._costs.handling / 2, self._enqueue, number, front_end)

    def _enqueue(self, number: int, front_end: int) -> None:
        self._queues[front_end].append(number)
        self._submit(front_end)

    def _submit(self, front_end: int) -> None:
        if self._queues[front_end] and not self._under_way[front_end]:
            self._under_way[front_end] = True
            self._cores[front_end].do(0.0, self._form, front_end)

    def _form(self, front_end: int) -> None:
        self._turns.append((front_end, _take(self._queues[front_end], self._device.most)))
        self._run()

    def _run(self) -> None:
        if self._running or not self._turns:
            return
        self._running = True
        front_end, rows = self._turns.popleft()
        seconds = self._device.fixed + self._device.each * len(rows)
        if self._last not in (-1, front_end):
            seconds += self._device.switch
        self._last = front_end
        if self._device.drive:
            self._cores[front_end].do_first(self._device.drive)
        self._after(seconds, self._end, front_end, rows)

    def _end(self, front_end: int, rows: list[int]) -> None:
        self._running = self._under_way[front_end] = False
        self._run()
        self._submit(front_end)  # before the answers, so that the device need not wait for them
        for number in rows:
            self._cores[front_end].do(self._costs.handling / 2, self._answer, number)


class _OneExecutor(_Simulation):
    def __init__(self, arrivals: Sequence[Arrival], front_ends: int, device: Device, costs: Costs) -> None:
        super().__init__(arrivals, front_ends, device, costs)
        self._executor = _Core(self._after)
        self._queue: deque[int] = deque()
        self._running = False

    def _arrive(self, number: int, front_end: int) -> None:
        self._cores[front_end].do(self._costs.handling / 2 + self._costs.row, self._send, number)

    def _send(self, number: int) -> None:
        self._after(self._costs.hop, self._executor.do, self._costs.row, self._enqueue, number)

    def _enqueue(self, number: int) -> None:
        self._queue.append(number)
        self._run()

    def _run(self) -> None:
        if self._queue and not self._running:
            self._running = True
            self._executor.do(0.0, self._form)

    def _form(self) -> None:
        rows = _take(self._queue, self._device.most)
        if self._device.drive:
            self._executor.do_first(self._device.drive)
        self._after(self._device.fixed + self._device.each * len(rows), self._end, rows)

    def _end(self, rows: list[int]) -> None:
        self._running = False
        self._run()
        shares: dict[int, list[int]] = {}
        for number in rows:
            shares.setdefault(self._arrivals[number][1], []).append(number)
        for front_end, own in shares.items():
            seconds = self._costs.message + self._costs.row * len(own)
            self._executor.do(seconds, self._after, self._costs.hop, self._return, front_end, own)

    def _return(self, front_end: int, rows: list[int]) -> None:
        core = self._cores[front_end]
        core.do(self._costs.message, _nothing)
        for number in rows:
            core.do(self._costs.row + self._costs.handling / 2, self._answer, number)


def _take(queue: deque[int], most: int) -> list[int]:
    return [queue.popleft() for _ in range(min(len(queue), most))]


def _nothing() -> None:
    pass
