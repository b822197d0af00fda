"""The server as a program: settings in, signals handled, exit status out."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import structlog

from convserve import config, host, memory, repository
from convserve.config import Settings
from convserve.errors import ConfigError, ConvserveError
from convserve.host import CpuPlan
from convserve.server import logs
from convserve.server.ending import end_after
from convserve.server.supervisor import Supervisor

if TYPE_CHECKING:
    from convserve.server.app import Server

_OTHER_FILES = 256
"""Files and connections besides those of callers: of threads, workers, models and scrapes."""

log = structlog.get_logger(__name__)


def serve(arguments: Mapping[str, Any]) -> int:
    """Serve until a signal comes. Returns 0 after a drain, 1 when the server could not start.

    A drain that does not end ends the process with 1.
    """
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
    _allow_connections(settings.limits.max_connections)
    _tell_unused(settings)
    server = _make(settings, plan)
    if isinstance(server, Supervisor):
        signals.on_sudden_end = server.kill
    try:
        models = server.start()
    except ConvserveError as error:
        log.error("cannot start", reason=str(error))
        server.stop()
        return 1
    ports = {"grpc_port": server.grpc_port, "http_port": server.http_port}
    if server.admin_port:
        ports["admin_port"] = server.admin_port
    signals.drain_from_now_on()
    _tell_ready({"event": "serving", **ports, "models": models})
    log.info("serving", host=settings.host, **ports, models=models)
    if isinstance(server, Supervisor):
        threading.Thread(target=_wake_when_failed, args=(server, signals), daemon=True).start()
    signals.wait()
    log.info("stopping")
    if not isinstance(server, Supervisor):  # it ends its workers itself
        end_after(settings.drain)
    server.stop()
    log.info("stopped")
    return 1 if isinstance(server, Supervisor) and server.failed.is_set() else 0


def _allow_connections(count: int) -> None:
    """Have room for so many connections: without, callers would wait who should be turned away at once."""
    wanted = count + _OTHER_FILES
    allowed = host.allow_files(wanted)
    if allowed < wanted:
        log.warning("fewer open files are allowed than limits.max_connections needs", allowed=allowed, needed=wanted)


def _tell_ready(message: dict[str, Any]) -> None:
    """Write the line for whoever waits for it. That nobody reads it, or its disk is full, ends no server."""
    try:
        sys.stdout.write(json.dumps(message) + "\n")
        sys.stdout.flush()
    except OSError as error:
        log.warning("stdout cannot be written", reason=str(error))
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or what is left would fail again at the end


def _tell_unused(settings: Settings) -> None:
    """Warn of settings for models that the repository does not have: most often a typing error, or they come later."""
    if not settings.models:
        return
    with contextlib.suppress(ConfigError):  # the start says what is wrong with the repository
        known = sorted(repository.scan(settings.model_repository))
        for name in sorted(set(settings.models) - set(known)):
            log.warning("settings for a model that is not in the repository", model=name, models=known)


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
    """SIGTERM, SIGINT and SIGHUP as bytes in a pipe, which a thread reads.

    A Python signal handler runs on the main thread only, and nothing wakes that thread when the kernel has chosen
    another one to take the signal. The wake-up descriptor is written to whichever thread it was.

    Until the server is ready a signal ends the process at once, with 0: nobody was told to send anything. Later the
    first one makes `wait` return, and the second ends the process at once. Workers end with their supervisor.

    SIGHUP comes when the terminal is closed, and more than once: from the shell, and from the kernel when the shell has
    gone. Therefore it drains, but never is the second signal. Under `nohup` it stays ignored.
    """

    def __init__(self) -> None:
        self._read, self._write = os.pipe()
        os.set_blocking(self._write, False)
        signal.set_wakeup_fd(self._write)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            if number is not signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, lambda *_: None)
        self.on_sudden_end: Callable[[], None] = lambda: None
        """Called before the process ends at once."""
        self._ready = threading.Event()
        self._stop = threading.Event()
        threading.Thread(target=self._listen, name="signals", daemon=True).start()

    def drain_from_now_on(self) -> None:
        """Note that the server is ready."""
        self._ready.set()

    def wait(self) -> None:
        """Return at the first signal."""
        self._stop.wait()

    def wake(self) -> None:
        """Make `wait` return without a signal."""
        self._stop.set()

    def _listen(self) -> None:
        told = False
        while True:
            (number,) = os.read(self._read, 1)
            if not self._ready.is_set():
                log.info("ended before it was ready", signal=number)
                self.on_sudden_end()
                os._exit(0)
            if number != signal.SIGHUP:  # which whatever closes a terminal sends along, once or twice
                if told:
                    self.on_sudden_end()
                    os._exit(128 + number)
                told = True
            self._stop.set()
