"""Finds out that a process at the other end of a line does its work no more, although it has not ended."""

from __future__ import annotations

import time

from convserve.server.line import Line

_QUESTIONS = 4
"""Questions in a row without a good answer that make a hang. Several: processes that were all paused together, as
containers are, have missed one of them at most when they go on."""


def wait_for_hang(line: Line, seconds: float) -> str:
    """Ask again and again, until for so many seconds nothing good has been heard, or the other end is gone.

    It answers what keeps it from its work, or nothing if all is well. It has all the time it needs for its first
    answer: until then it starts.

    Returns:
        Why it counts as hung. Empty: it is gone.
    """
    missed, why = 0, ""
    try:
        line.ask("alive")
        while missed < _QUESTIONS:
            next_at = time.monotonic() + seconds / _QUESTIONS
            try:
                why = line.ask("alive", timeout=seconds / _QUESTIONS)
                missed = missed + 1 if why else 0
            except TimeoutError:
                why = f"it has not answered for {seconds:g} s"
                missed += 1
            line.ended.wait(max(next_at - time.monotonic(), 0))
    except (EOFError, OSError):
        return ""
    return why
