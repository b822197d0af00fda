"""One of several server processes that share a port. Started by the supervisor, never forked.

It talks with the supervisor over two pipes: on `commands` the supervisor asks and the worker answers; on `requests` the
worker asks and the supervisor answers. A pipe that breaks means the supervisor is gone: the worker drains and ends.
"""

from __future__ import annotations

import signal
import sys
import threading
from multiprocessing.connection import Connection
from typing import Any

import structlog

from convserve import errors, memory
from convserve.config import Settings
from convserve.errors import ConvserveError
from convserve.server import logs, shared_totals
from convserve.server.aggregate import snapshot
from convserve.server.app import Place, Server
from convserve.statistics import Totals

log = structlog.get_logger(__name__)


def main(commands_fd: int, requests_fd: int) -> int:
    """Serve until the supervisor says stop. Returns the exit status."""
    for number in (signal.SIGINT, signal.SIGTERM):  # they reach the whole group; the supervisor decides
        signal.signal(number, signal.SIG_IGN)
    memory.limit_arenas()
    commands, requests = Connection(commands_fd), Connection(requests_fd)
    settings: Settings
    index, settings, plan, port, admin_port = commands.recv()
    logs.configure(settings.log_level, settings.log_format, worker=index)
    others = _AllWorkers(requests)
    server = Server(settings, plan, Place(port, admin_port, others, others.read_totals))
    try:
        commands.send(("ready", server.start()))
    except ConvserveError as error:
        commands.send(("failed", str(error)))
        return 1
    try:
        _obey(commands, server)
    except (EOFError, OSError):
        log.warning("the supervisor is gone; draining")
    server.stop()
    return 0


def _obey(commands: Connection, server: Server) -> None:
    """Carry out the supervisor's commands until it says stop."""
    while (message := commands.recv())[1] != ("stop",):
        number, command = message
        try:
            commands.send((number, "ok", _carry_out(command, server)))
        except ConvserveError as error:
            commands.send((number, type(error).__name__, str(error)))


def _carry_out(command: tuple[Any, ...], server: Server) -> Any:
    match command:
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
    raise ValueError(f"unknown command {command!r}")


class _AllWorkers:
    """Has the supervisor ask every worker, this one included. An `Admin`."""

    def __init__(self, requests: Connection) -> None:
        self._requests = requests
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
        """Add up where the time of requests went."""
        return shared_totals.add_up(self._ask("totals"))

    def _ask(self, *request: Any) -> Any:
        with self._turn:
            self._requests.send(request)
            kind, value = self._requests.recv()
        if kind != "ok":
            raise errors.by_name(kind, value)
        return value


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:3])))
