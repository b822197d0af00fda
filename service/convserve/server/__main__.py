"""The server as a program: settings in, signals handled, exit status out."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import structlog

from convserve import config, host, memory
from convserve.config import Settings
from convserve.errors import ConvserveError
from convserve.host import CpuPlan
from convserve.server import logs
from convserve.server.supervisor import Supervisor

if TYPE_CHECKING:
    from convserve.server.app import Server

log = structlog.get_logger(__name__)


def serve(arguments: Mapping[str, Any]) -> int:
    """Serve until SIGTERM or SIGINT. Returns 0 after a drain, 1 when the server could not start."""
    try:
        settings = config.load(arguments, os.environ)
    except ConvserveError as error:
        print(f"convserve serve: {error}", file=sys.stderr)  # noqa: T201  # logging is not set up yet
        return 2
    memory.limit_arenas()
    logs.configure(settings.log_level, settings.log_format)
    signals = _Signals()
    plan = host.plan(host.inspect(), settings.workers, settings.intra_op_threads)
    log.info("cores shared out", **asdict(host.inspect()), **asdict(plan))
    server = _make(settings, plan)
    try:
        models = server.start()
    except ConvserveError as error:
        log.error("cannot start", reason=str(error))
        server.stop()
        return 1
    ports = {"grpc_port": server.grpc_port, "http_port": server.http_port}
    if server.admin_port:
        ports["admin_port"] = server.admin_port
    sys.stdout.write(json.dumps({"event": "serving", **ports, "models": models}) + "\n")
    sys.stdout.flush()
    log.info("serving", host=settings.host, **ports, models=models)
    if isinstance(server, Supervisor):
        threading.Thread(target=_wake_when_failed, args=(server, signals), daemon=True).start()
    signals.wait()
    log.info("stopping")
    signals.exit_at_next()
    server.stop()
    log.info("stopped")
    return 1 if isinstance(server, Supervisor) and server.failed.is_set() else 0


def _make(settings: Settings, plan: CpuPlan) -> Server | Supervisor:
    """One process, or a supervisor with several; a supervisor never imports gRPC."""
    if plan.workers > 1:
        return Supervisor(settings, plan)
    from convserve.server.app import Server

    return Server(settings, plan)


def _wake_when_failed(supervisor: Supervisor, signals: _Signals) -> None:
    supervisor.failed.wait()
    signals.wake()


class _Signals:
    """SIGTERM and SIGINT as bytes in a pipe.

    A Python signal handler runs on the main thread only, and nothing wakes that thread when the kernel has chosen
    another one to take the signal. The wake-up descriptor is written to whichever thread it was.
    """

    def __init__(self) -> None:
        self._read, self._write = os.pipe()
        os.set_blocking(self._write, False)
        signal.set_wakeup_fd(self._write)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: None)

    def wait(self) -> None:
        """Return at the first signal."""
        os.read(self._read, 1)

    def wake(self) -> None:
        """Make `wait` return without a signal."""
        os.write(self._write, b"\0")

    def exit_at_next(self) -> None:
        """From now on, a signal ends the process at once."""

        def end() -> None:
            (number,) = os.read(self._read, 1)
            os._exit(128 + number)

        threading.Thread(target=end, name="second-signal", daemon=True).start()
