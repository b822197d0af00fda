"""The server as a program: settings in, signals handled, exit status out."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections.abc import Mapping
from typing import Any

import structlog

from convserve import config
from convserve.errors import ConvserveError
from convserve.server import logs
from convserve.server.app import Server

log = structlog.get_logger(__name__)


def serve(arguments: Mapping[str, Any]) -> int:
    """Serve until SIGTERM or SIGINT. Returns 0 after a drain, 1 when the server could not start."""
    try:
        settings = config.load(arguments, os.environ)
    except ConvserveError as error:
        print(f"convserve serve: {error}", file=sys.stderr)  # noqa: T201  # logging is not set up yet
        return 2
    logs.configure(settings.log_level, settings.log_format)
    signals = _Signals()
    server = Server(settings)
    try:
        models = server.start()
    except ConvserveError as error:
        log.error("cannot start", reason=str(error))
        server.stop()
        return 1
    ready = {"event": "serving", "grpc_port": server.grpc_port, "http_port": server.http_port, "models": models}
    sys.stdout.write(json.dumps(ready) + "\n")
    sys.stdout.flush()
    log.info("serving", host=settings.host, grpc_port=server.grpc_port, http_port=server.http_port, models=models)
    signals.wait()
    log.info("stopping")
    signals.exit_at_next()
    server.stop()
    log.info("stopped")
    return 0


class _Signals:
    """SIGTERM and SIGINT as bytes in a pipe.

    A Python signal handler runs on the main thread only, and nothing wakes that thread when the kernel has chosen
    another one to take the signal. The wake-up descriptor is written to whichever thread it was.
    """

    def __init__(self) -> None:
        self._read, write = os.pipe()
        os.set_blocking(write, False)
        signal.set_wakeup_fd(write)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: None)

    def wait(self) -> None:
        """Return at the first signal."""
        os.read(self._read, 1)

    def exit_at_next(self) -> None:
        """From now on, a signal ends the process at once."""

        def end() -> None:
            (number,) = os.read(self._read, 1)
            os._exit(128 + number)

        threading.Thread(target=end, name="second-signal", daemon=True).start()
