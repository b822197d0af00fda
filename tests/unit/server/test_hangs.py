"""When a process that has not ended counts as one that hangs."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from convserve.server import hangs


class Clock:
    """Time that passes only while somebody waits."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(hangs, "time", made)
    return made


def watched(clock: Clock, answers: Iterator[bool | float | type[Exception]]) -> Any:
    """A line whose other end answers at once (no batch runs, or one since that time), never, or is gone."""

    def ask(question: str, timeout: float | None = None) -> tuple[str, float]:
        answer = next(answers)
        if isinstance(answer, float):
            return "mnist version 1", clock.now - answer
        if answer is False:
            assert timeout is not None, "somebody waits for ever"
            clock.now += timeout
            raise TimeoutError
        if answer is not True:
            raise answer
        return "", 0.0

    def wait(seconds: float) -> bool:
        clock.now += seconds
        return False

    return SimpleNamespace(ask=ask, ended=SimpleNamespace(wait=wait))


def test_four_questions_in_a_row_without_an_answer_are_a_hang(clock: Clock) -> None:
    """Together they take as long as was asked for."""
    why = hangs.wait_for_hang(watched(clock, itertools.chain([True, True], itertools.repeat(False))), 8)
    assert why == "it has not answered for 8 s"
    assert clock.now == 2 + 8


@pytest.mark.parametrize("began", [0.1, 1.0, 1.9])
def test_a_batch_that_does_not_end_is_a_hang_soon_after_its_time(clock: Clock, began: float) -> None:
    """At the next question."""
    answers = itertools.chain([True, True], itertools.repeat(began))
    why = hangs.wait_for_hang(watched(clock, answers), 8)
    assert why == f"mnist version 1 has been running one batch for {10 - began:.0f} s"
    assert clock.now == 10


def test_batches_that_end_are_no_hang(clock: Clock) -> None:
    """However long they take, or have taken by the clock: the whole machine was paused, and then the batch goes on."""
    slow: list[bool | float | type[Exception]] = [True, *[0.0] * 5, *[8.5] * 4, EOFError]
    assert not hangs.wait_for_hang(watched(clock, iter(slow)), 8)
    paused: list[bool | float | type[Exception]] = [True, -100.0, -100.0, -100.0, True, EOFError]
    assert not hangs.wait_for_hang(watched(clock, iter(paused)), 8)


def test_an_answer_in_between_ends_a_hang(clock: Clock) -> None:
    """As of a process that was paused, slow, or short of memory for a while."""
    answers: list[bool | type[Exception]] = [True, False, False, False, True, False, False, False, True, EOFError]
    assert not hangs.wait_for_hang(watched(clock, iter(answers)), 8)


def test_questions_that_cannot_be_asked_are_not_asked_faster(clock: Clock) -> None:
    """Too many are open: that is known at once, and the other end still has its time."""

    def refuse(question: str, timeout: float | None = None) -> tuple[str, float]:
        if timeout is not None:
            raise TimeoutError
        return "", 0.0

    line = watched(clock, iter([]))
    line.ask = refuse
    assert hangs.wait_for_hang(line, 8)
    assert clock.now == 8


@pytest.mark.parametrize("gone", [EOFError, BrokenPipeError])
def test_who_is_gone_is_not_silent(clock: Clock, gone: type[Exception]) -> None:
    """Before the first answer, and later."""
    assert not hangs.wait_for_hang(watched(clock, iter([gone])), 8)
    assert not hangs.wait_for_hang(watched(clock, iter([True, True, gone])), 8)


def test_the_first_answer_may_take_as_long_as_it_wants() -> None:
    """A process that starts does not listen yet."""
    begun, go_on = threading.Event(), threading.Event()

    def ask(question: str, timeout: float | None = None) -> None:
        assert timeout is None
        begun.set()
        go_on.wait(10)
        raise EOFError

    line: Any = SimpleNamespace(ask=ask)
    watch = threading.Thread(target=hangs.wait_for_hang, args=(line, 0.001))
    watch.start()
    assert begun.wait(10)
    watch.join(0.05)
    assert watch.is_alive()
    go_on.set()
    watch.join(10)
    assert not watch.is_alive()
