"""The end of a process that nobody else ends."""

from __future__ import annotations

import os
import threading

import structlog

from convserve.config import DrainSettings

_SECONDS = 10.0
"""How long the end may take beyond the drain's own time; a supervisor gives its workers as much."""

log = structlog.get_logger(__name__)


def end_after(drain: DrainSettings) -> None:
    """End the process if it has not when its drain is over: a batch that hangs cannot be ended from within.

    Its thread stays.
    """

    def end() -> None:
        log.error("did not drain in time; ended")
        os._exit(1)

    timer = threading.Timer(drain.delay + drain.timeout + _SECONDS, end)
    timer.daemon = True
    try:
        timer.start()
    except RuntimeError as error:  # the system has no room for a thread: drain without
        log.error("nothing ends a drain that hangs", reason=str(error))
