"""Questions and answers over a pipe."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import Pipe
from typing import Any, TypeAlias

import pytest

from convserve.errors import InternalError, InvalidRequestError
from convserve.server import line as module
from convserve.server.line import Line, Question

Answer: TypeAlias = Callable[[Question], Any]


def echo(question: Question) -> Any:
    return question


@pytest.fixture
def connect() -> Iterator[Callable[..., tuple[Line, Line]]]:
    """Connects two lines that answer as told; both have ended when the test has."""
    made: list[tuple[Line, socket.socket]] = []

    def make(answer: Answer = echo, other_answer: Answer = echo) -> tuple[Line, Line]:
        here, there = Pipe()
        wire = socket.socket(fileno=os.dup(here.fileno()))
        line, other = Line(here, answer), Line(there, other_answer)
        made.extend([(line, wire), (other, wire)])
        line.start()
        other.start()
        return line, other

    yield make
    for line, wire in made:
        if not line.ended.is_set():
            with contextlib.suppress(OSError):  # its other end may have ended both by now
                wire.shutdown(socket.SHUT_RDWR)
        assert line.ended.wait(10)
    for _, wire in made:
        wire.close()


def test_both_sides_ask(connect: Callable[..., tuple[Line, Line]]) -> None:
    """Also from within an answer."""
    lines: list[Line] = []
    lines.extend(connect(echo, lambda question: lines[1].ask("back", *question)))
    assert lines[1].ask("one", 1) == ("one", 1)
    assert lines[0].ask("two", 2) == ("back", "two", 2)


def test_questions_are_answered_where_no_thread_can_be_started(
    connect: Callable[..., tuple[Line, Line]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One after the other, by the threads that there are; and side by side again when there is room."""
    entered, go_on = threading.Event(), threading.Event()

    def answer(question: Question) -> Any:
        if question == ("slow",):
            entered.set()
            go_on.wait(10)
        return question

    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    line, other = connect(other_answer=answer)
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(line.ask, "slow")
        assert entered.wait(10)
        with monkeypatch.context() as machine:
            machine.setattr(threading.Thread, "start", refuse)
            with pytest.raises(TimeoutError):
                line.ask("waits", timeout=0.2)
        assert line.ask("again", timeout=10) == ("again",)
        go_on.set()
        assert slow.result(10) == ("slow",)
    assert not other.ended.is_set()


def test_a_slow_answer_holds_up_no_other(connect: Callable[..., tuple[Line, Line]]) -> None:
    """Answers find their questions in whatever order they come."""
    slow = threading.Event()

    def answer(question: Question) -> Any:
        if question == ("slow",):
            assert slow.wait(30)
        return question

    line, _ = connect(echo, answer)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(line.ask, "slow")
        assert [line.ask("quick", number) for number in range(300)] == [("quick", number) for number in range(300)]
        assert not waiting.done()
        slow.set()
        assert waiting.result(30) == ("slow",)


def test_errors_come_back_as_they_were_raised(connect: Callable[..., tuple[Line, Line]]) -> None:
    """With all that belongs to them; what nobody foresaw stays in the log."""

    def fail(question: Question) -> Any:
        if question == ("foreseen",):
            raise InvalidRequestError.of("alias", "is empty")
        raise KeyError("a secret")

    line, _ = connect(echo, fail)
    with pytest.raises(InvalidRequestError, match="alias: is empty") as raised:
        line.ask("foreseen")
    assert raised.value.violations[0].field == "alias"
    with pytest.raises(InternalError, match=r"^unforeseen failed; the log tells why$"):
        line.ask("unforeseen")


def test_the_end_of_the_other_side_ends_every_question() -> None:
    """Those that are open and those that come later; whoever wants to know is told once."""
    here, there = Pipe()
    told = threading.Semaphore(0)
    line = Line(here, echo, told.release)
    line.start()
    with ThreadPoolExecutor(2) as pool:
        asked = [pool.submit(line.ask, number) for number in range(2)]
        for _ in asked:
            there.recv()
        there.close()
        for one in asked:
            with pytest.raises(EOFError):
                one.result(30)
    assert told.acquire(timeout=10)
    with pytest.raises(EOFError):
        line.ask("later")
    line.tell("later")
    assert not told.acquire(timeout=0.05)


def test_whoever_does_not_answer_is_not_asked_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each question has its time, a late answer is nobody else's, and a pipe is not filled until it blocks."""
    monkeypatch.setattr(module, "_MOST_OPEN", 3)
    here, there = Pipe()
    line = Line(here, echo)
    line.start()
    for number in range(3):
        with pytest.raises(TimeoutError):
            line.ask(number, timeout=0)
    with pytest.raises(TimeoutError, match="3 questions have no answer yet"):
        line.ask("one more")
    for _ in range(3):
        _, number, question = there.recv()
        there.send(("answer", number, question))
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(_ask_when_possible, line, "new")
        _, number, question = there.recv()
        there.send(("answer", number, "right"))
        assert asked.result(30) == "right"
    there.close()
    assert line.ended.wait(10)


def _ask_when_possible(line: Line, question: str) -> Any:
    while True:
        try:
            return line.ask(question, timeout=30)
        except TimeoutError:
            threading.Event().wait(0.01)
