"""Finds out that a process at the other end of a line does its work no more, although it has not ended."""

from __future__ import annotations

import time

from convserve.server.line import Line

_QUESTIONS = 4
"""Questions in a row that make a hang, without an answer or with the same batch running. Several: processes that were
all paused together, as containers are, have missed one of them at most when they go on."""


def wait_for_hang(line: Line, seconds: float) -> str:
    """Ask again and again, until nothing has been heard or one batch has been running for so many seconds.

    The answer tells which version has been running one batch for longest, and for how long. The first may take all the
    time it needs: until then the process starts.

    Returns:
        Why it counts as hung. Empty: it is gone.
    """
    interval = seconds / _QUESTIONS
    silent = seen = 0
    try:
        line.ask("alive")
        while silent < _QUESTIONS:
            next_at = time.monotonic() + interval
            try:
                label, running = line.ask("alive", timeout=interval)
            except TimeoutError:
                silent += 1
            else:
                silent = 0
                seen = seen + 1 if running > interval else 0  # it was under way when the last question was asked
                if seen >= _QUESTIONS and running > seconds:
                    return f"{label} has been running one batch for {running:.0f} s"
            line.ended.wait(max(next_at - time.monotonic(), 0))
    except (EOFError, OSError):
        return ""
    return f"it has not answered for {seconds:g} s"
