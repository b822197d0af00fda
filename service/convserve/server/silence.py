"""Finds out that a process at the other end of a line has stopped to answer, although it has not ended."""

from __future__ import annotations

import time

from convserve.server.line import Line

_QUESTIONS = 4
"""Questions in a row without an answer that make a silence. Several: processes that were all paused together, as
containers are, have missed one of them at most when they go on."""


def wait_for_silence(line: Line, seconds: float) -> bool:
    """Ask again and again, until the other end has not answered for so many seconds, or is gone.

    It has all the time it needs for its first answer: until then it starts.

    Returns:
        True: it is silent. False: it is gone.
    """
    missed = 0
    try:
        line.ask("alive")
        while missed < _QUESTIONS:
            next_at = time.monotonic() + seconds / _QUESTIONS
            try:
                line.ask("alive", timeout=seconds / _QUESTIONS)
                missed = 0
            except TimeoutError:
                missed += 1
            line.ended.wait(max(next_at - time.monotonic(), 0))
    except (EOFError, OSError):
        return False
    return True
