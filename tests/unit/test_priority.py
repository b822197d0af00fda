"""Background work."""

from __future__ import annotations

import os
import threading

import pytest

from convserve.priority import in_background


def test_it_is_nicer_than_the_rest() -> None:
    """The thread's niceness is at least 10; the caller's stays."""
    before = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
    there = in_background(lambda: os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))
    assert there == max(10, before)
    assert os.getpriority(os.PRIO_PROCESS, threading.get_native_id()) == before


def test_errors_come_back() -> None:
    """As they were raised."""

    def fail() -> None:
        raise KeyError("why")

    with pytest.raises(KeyError, match="why"):
        in_background(fail)
