"""The client processes, seen from the one that commands them."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from types import TracebackType
from typing import Any

import numpy as np

from convserve.errors import InternalError, UnavailableError
from convserve.loadtest.process import Load, Setup, Share
from convserve.loadtest.records import ClientStats, Records

_HEAD_START_SECONDS = 0.05
"""Between the command to start and the start, so that every process is waiting for it."""
_READY_SECONDS = 60.0
_ENDED = "a client process has ended; its message is on stderr"
_HAND_ON_SECONDS = 0.25
"""Records are added up in pieces of so much time: many small ones would cost more than the clients."""


class Fleet:
    """Runs loads in processes of their own, which are new interpreters (nothing is forked) and serve for many runs."""

    def __init__(self, setup: Setup, processes: int) -> None:
        """Start them."""
        self._pipes: list[Connection] = []
        self._processes: list[subprocess.Popen[bytes]] = []
        for _ in range(processes):
            here, there = Pipe()
            process = subprocess.Popen(  # noqa: S603  # our own interpreter and module
                [sys.executable, "-m", "convserve.loadtest.process", str(there.fileno())],
                pass_fds=(there.fileno(),),
                stdin=subprocess.DEVNULL,
                process_group=0,  # Ctrl-C goes to the one who commands, who ends them without a traceback of each
            )
            there.close()
            self._pipes.append(here)
            self._processes.append(process)
            _send(here, setup)

    def __enter__(self) -> Fleet:
        """Nothing to do: the processes run."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the processes."""
        self.close()

    def run(self, load: Load, take: Callable[[Records], None], tick: Callable[[float], None]) -> list[ClientStats]:
        """Run a load to its end. Returns how each process fared.

        Args:
            load: what to send when.
            take: is given records as they come.
            tick: is called a few times a second with the seconds since the start.

        Raises:
            UnavailableError: the server cannot be reached.
            InternalError: a process ended.
        """
        for part, pipe in enumerate(self._pipes):
            _send(pipe, Share(load, part, len(self._pipes)))
        for pipe in self._pipes:
            if not pipe.poll(_READY_SECONDS):
                raise InternalError(f"a client process did not get ready within {_READY_SECONDS:g} s")
            answer = self._receive(pipe)
            if answer != "ready":
                raise UnavailableError(str(answer))
        begin = time.monotonic() + _HEAD_START_SECONDS
        for pipe in self._pipes:
            _send(pipe, begin)
        running = list(self._pipes)
        stats: list[ClientStats] = []
        pieces: list[Records] = []
        handed_on = begin
        while running:
            for ready in wait(running, timeout=0.25):
                assert isinstance(ready, Connection)  # noqa: S101  # `wait` returns what it was given
                message = self._receive(ready)
                if isinstance(message, np.ndarray):
                    pieces.append(message)
                else:
                    stats.append(message)
                    running.remove(ready)
            if pieces and (time.monotonic() - handed_on >= _HAND_ON_SECONDS or not running):
                take(np.concatenate(pieces))
                pieces, handed_on = [], time.monotonic()
            tick(time.monotonic() - begin)
        return stats

    def close(self) -> None:
        """End the processes; again: nothing."""
        for pipe in self._pipes:
            pipe.close()
        for process in self._processes:
            try:
                process.wait(2)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._pipes, self._processes = [], []

    def _receive(self, pipe: Connection) -> Any:
        try:
            return pipe.recv()
        except (EOFError, ConnectionResetError) as error:
            raise InternalError(_ENDED) from error


def _send(pipe: Connection, message: Any) -> None:
    try:
        pipe.send(message)
    except (BrokenPipeError, ConnectionResetError) as error:  # would be taken for our own output's
        raise InternalError(_ENDED) from error
