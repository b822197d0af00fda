"""Work that must not disturb the requests that are being served."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

T = TypeVar("T")

_NICENESS = 10


def in_background(work: Callable[[], T]) -> T:
    """Do work on a thread that the kernel favours less than the others, and wait for its result.

    Linux schedules threads by a niceness of their own. The thread ends with the work, since a thread of an unprivileged
    process cannot take its priority back. It should not create threads that live on: they would inherit its niceness.

    Raises:
        Whatever the work raises.
    """
    future: Future[T] = Future()

    def run() -> None:
        with contextlib.suppress(OSError, AttributeError):  # another system, or a sandbox that forbids it
            own = threading.get_native_id()
            os.setpriority(os.PRIO_PROCESS, own, max(_NICENESS, os.getpriority(os.PRIO_PROCESS, own)))
        try:
            future.set_result(work())
        except BaseException as error:  # noqa: BLE001  # it is raised where the work was asked for
            future.set_exception(error)

    thread = threading.Thread(target=run, name="background")
    thread.start()
    thread.join()
    return future.result()
