"""Questions and answers between two processes over one pipe. Either side asks, and several questions may be open.

A pipe ends with the process at its other end; that ends every open question too. Only the thread that listens closes
the pipe: a descriptor closed under another thread that waits on it may by then be somebody else's.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections.abc import Callable
from concurrent.futures import Future
from multiprocessing.connection import Connection
from queue import SimpleQueue
from typing import Any, TypeAlias

import structlog

from convserve.errors import ConvserveError, InternalError

log = structlog.get_logger(__name__)

Question: TypeAlias = tuple[Any, ...]
"""What is wanted, and its arguments; anything that can be pickled."""

_MOST_OPEN = 100
"""Questions that may be open. Whoever leaves so many unanswered is asked no more: a pipe that is full would block."""


class Line:
    """One end of a pipe. Thread-safe; `start` it once."""

    def __init__(
        self, pipe: Connection, answer: Callable[[Question], Any], on_end: Callable[[], None] = lambda: None
    ) -> None:
        """Own this end from here on.

        Args:
            pipe: this end.
            answer: answers the other side's questions, as many at a time as come. A `ConvserveError` that it raises is
                raised where the question was asked.
            on_end: called once, when the other end is gone.
        """
        self._pipe = pipe
        self._answer = answer
        self._on_end = on_end
        self._lock = threading.Lock()
        self._sending = threading.Lock()
        self._numbers = itertools.count(1)
        self._open: dict[int, Future[Any]] = {}
        self._questions: SimpleQueue[tuple[int, Question] | None] = SimpleQueue()
        self._free = 0
        self.ended = threading.Event()
        """Set when the other end is gone."""

    def start(self) -> None:
        """Begin to listen."""
        self._start_answering()
        threading.Thread(target=self._listen, name="line", daemon=True).start()

    def ask(self, *question: Any, timeout: float | None = None) -> Any:
        """Ask the other side, and wait for its answer, at most `timeout` seconds.

        Raises:
            ConvserveError: the other side could not do it.
            EOFError, OSError: it is gone; as a TimeoutError: it has not answered in time.
        """
        answer: Future[Any] = Future()
        with self._lock:
            if self.ended.is_set():
                raise EOFError("the process at the other end is gone")
            if len(self._open) >= _MOST_OPEN:
                raise TimeoutError(f"{_MOST_OPEN} questions have no answer yet")
            number = next(self._numbers)
            self._open[number] = answer
        self._send(("question", number, question))
        return answer.result(timeout)

    def tell(self, *question: Any) -> None:
        """Ask without waiting for an answer; nothing happens when the other side is gone."""
        with contextlib.suppress(OSError):
            self._send(("question", 0, question))

    def _send(self, message: tuple[str, int, Any]) -> None:
        with self._sending:
            self._pipe.send(message)

    def _listen(self) -> None:
        try:
            while True:
                kind, number, content = self._pipe.recv()
                if kind == "question":
                    self._take(number, content)
                elif answer := self._open.pop(number, None):
                    answer.set_exception(content) if kind == "error" else answer.set_result(content)
        except (EOFError, OSError):
            pass
        finally:
            self._end()

    def _take(self, number: int, question: Question) -> None:
        """Have a thread answer: one that is free, or another.

        Where the system has no room for another, the question waits for the next that is free: a process that is short
        of threads must not take the line for ended, and itself for useless.
        """
        with self._lock:
            if self._free <= 0:
                try:
                    self._start_answering()
                except RuntimeError as error:
                    log.error("a question waits for a thread", question=question[0], reason=str(error))
            self._free -= 1  # below 0: so many wait
        self._questions.put((number, question))

    def _start_answering(self) -> None:
        threading.Thread(target=self._answer_questions, name="answers", daemon=True).start()
        self._free += 1

    def _answer_questions(self) -> None:
        while (next_one := self._questions.get()) is not None:
            self._reply(*next_one)
            with self._lock:
                self._free += 1
        self._questions.put(None)  # for the other threads

    def _reply(self, number: int, question: Question) -> None:
        try:
            message: tuple[str, int, Any] = ("answer", number, self._answer(question))
        except ConvserveError as error:
            message = ("error", number, error)
        except Exception as error:
            log.error("a question could not be answered", question=question[0], exc_info=error)
            message = ("error", number, InternalError(f"{question[0]} failed; the log tells why"))
        with contextlib.suppress(OSError):
            self._send(message)

    def _end(self) -> None:
        with self._lock:
            self.ended.set()
            unanswered = list(self._open.values())
            self._open.clear()
        self._questions.put(None)
        for answer in unanswered:
            answer.set_exception(EOFError("the process at the other end has ended"))
        with self._sending:
            self._pipe.close()
        self._on_end()
