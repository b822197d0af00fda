"""The server as a program: settings in, signals handled, exit status out."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections.abc import Mapping
from types import FrameType
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
    stopping = _stop_on_signals()
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
    stopping.wait()
    log.info("stopping")
    server.stop()
    log.info("stopped")
    return 0


def _stop_on_signals() -> threading.Event:
    """Make the first SIGTERM or SIGINT set the event, and the second end the process."""
    stopping = threading.Event()

    def handle(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        if stopping.is_set():
            os._exit(128 + number)
        stopping.set()

    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, handle)
    return stopping
