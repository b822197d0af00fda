"""One model's callers cannot take all the threads."""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from convserve.errors import OverloadedError
from convserve.server.shares import Shares


def test_while_threads_are_plenty_everybody_gets_one() -> None:
    """Seven eighths go to whoever comes."""
    shares = Shares(16)
    with ExitStack() as held:
        for _ in range(14):
            held.enter_context(shares.hold("busy"))


def test_a_flood_leaves_threads_for_the_others() -> None:
    """The flooding model is refused, with a hint; the quiet one still gets its thread."""
    shares = Shares(16)
    with ExitStack() as held:
        for _ in range(14):
            held.enter_context(shares.hold("busy"))
        with pytest.raises(OverloadedError, match="14 of them for 'busy'") as refused:
            held.enter_context(shares.hold("busy"))
        assert refused.value.retry_after_seconds > 0
        held.enter_context(shares.hold("quiet"))
        with pytest.raises(OverloadedError):
            held.enter_context(shares.hold("busy"))
        held.enter_context(shares.hold("quiet"))


def test_two_floods_bound_each_other() -> None:
    """Nobody waits in front of the pool: when all have their even share, all are refused."""
    shares = Shares(16)
    with ExitStack() as held:
        for _ in range(7):
            held.enter_context(shares.hold("a"))
            held.enter_context(shares.hold("b"))
        for model in ("a", "b"):
            with pytest.raises(OverloadedError):
                held.enter_context(shares.hold(model))


def test_threads_come_back() -> None:
    """Also when the call failed, and a refused call holds nothing."""
    shares = Shares(8)
    for _ in range(100):
        with pytest.raises(RuntimeError), shares.hold("a"):
            raise RuntimeError
    with ExitStack() as held:
        for _ in range(7):
            held.enter_context(shares.hold("a"))
        for _ in range(3):
            with pytest.raises(OverloadedError):
                held.enter_context(shares.hold("a"))
    with shares.hold("a"):
        pass


def test_the_only_thread_goes_to_whoever_comes() -> None:
    """There is none to keep for others."""
    shares = Shares(1)
    for _ in range(2):
        with shares.hold("one"):
            pass
