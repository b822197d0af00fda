"""One of several server processes that share a port. Started by the supervisor, never forked.

What they have to say to each other goes over one line, in both directions. When it ends, the supervisor is gone: a
worker that serves drains and ends, one that is starting or draining ends at once.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from multiprocessing.connection import Connection
from typing import Any

import structlog

from convserve import memory
from convserve.config import Settings
from convserve.errors import ConvserveError, OverloadedError, UnavailableError
from convserve.server import logs, shared_totals
from convserve.server.aggregate import snapshot
from convserve.server.app import Place, Server
from convserve.server.ending import end_after
from convserve.server.line import Line, Question
from convserve.statistics import Totals

log = structlog.get_logger(__name__)

_TURN_SECONDS = 10.0
"""How long a caller waits to ask all workers for statistics; one that does not answer holds each up for a while."""


def main(fd: int) -> int:
    """Serve until the supervisor says stop. Returns the exit status."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # they reach the whole group; the supervisor decides
        signal.signal(number, signal.SIG_IGN)
    memory.limit_arenas()
    pipe = Connection(fd)
    settings: Settings
    index, settings, plan, port, admin_port, late, wishes = pipe.recv()
    logs.configure(settings.log_level, settings.log_format, worker=index)
    serving, stop = threading.Event(), threading.Event()

    def answer(question: Question) -> Any:
        return stop.set() if question == ("stop",) else _carry_out(question, server)

    def end_alone() -> None:
        if not serving.is_set() or stop.is_set():
            os._exit(1)
        log.warning("the supervisor is gone; draining")
        stop.set()
        end_after(settings.drain)

    line = Line(pipe, answer, end_alone)
    others = _AllWorkers(line)
    server = Server(settings, plan, Place(port, admin_port, others, others.read_totals, late))
    line.start()
    try:
        if wishes is not None:
            server.manager.adopt(wishes)
        models = server.start()
    except Exception as error:
        if isinstance(error, ConvserveError):
            line.ask("failed", str(error))
        else:
            log.error("cannot start", exc_info=error)
        os._exit(1)  # threads of a server that is half started would hold the process up
    serving.set()
    line.tell("ready", models)
    stop.wait()
    server.stop()
    return 0


def _carry_out(command: Question, server: Server) -> Any:
    match command:
        case ("alive",):
            return server.longest_run()
        case ("metrics",):
            return snapshot(server.metrics_registry)
        case ("totals",):
            return server.share_of_totals()
        case ("load", model, version):
            return server.manager.load(model, version)
        case ("unload", model, version):
            return server.manager.unload(model, version)
        case ("set_alias", model, alias, version):
            return server.manager.set_alias(model, alias, version)
        case ("wishes",):
            return server.manager.wishes()
        case ("follow", wishes):
            return server.manager.follow(wishes)
    raise ValueError(f"unknown command {command!r}")


class _AllWorkers:
    """Has the supervisor ask every worker, this one included. An `Admin`."""

    def __init__(self, line: Line) -> None:
        self._line = line
        self._turn = threading.Lock()

    def load(self, model: str, version: int) -> int:
        """Load a version everywhere."""
        return int(self._ask("load", model, version))

    def unload(self, model: str, version: int) -> tuple[list[int], int]:
        """Unload a version everywhere."""
        versions, refused = self._ask("unload", model, version)
        return versions, refused

    def set_alias(self, model: str, alias: str, version: int) -> dict[str, int]:
        """Set an alias everywhere."""
        return dict(self._ask("set_alias", model, alias, version))

    def read_totals(self) -> dict[shared_totals.Key, Totals]:
        """Add up where the time of requests went.

        One caller after the other: as many as there may be would fill the lines, on which others have to be heard.
        """
        if not self._turn.acquire(timeout=_TURN_SECONDS):
            raise OverloadedError("too many callers ask for statistics; try again", retry_after_seconds=1.0)
        try:
            return shared_totals.add_up(self._ask("totals"))
        finally:
            self._turn.release()

    def _ask(self, *question: Any) -> Any:
        try:
            return self._line.ask(*question)
        except (OSError, EOFError) as error:
            raise UnavailableError("the supervisor does not answer; try again") from error


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
