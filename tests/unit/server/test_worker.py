"""What a worker asks of its supervisor."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import Pipe
from typing import Any

from convserve.server.line import Line, Question
from convserve.server.worker import _AllWorkers


def test_however_many_want_statistics_the_line_stays_free() -> None:
    """A hundred open questions are all that a line takes; then statistics were wrong, and workers counted as hung."""
    asked, answer_now = threading.Semaphore(0), threading.Event()
    lines: list[Line] = []

    def supervise(question: Question) -> Any:
        if question == ("totals",):
            asked.release()
            answer_now.wait(60)
        return []

    here, there = Pipe()
    lines = [Line(here, supervise), Line(there, supervise)]
    for line in lines:
        line.start()
    others = _AllWorkers(lines[0])
    with ThreadPoolExecutor(150) as pool:
        wanted = [pool.submit(others.read_totals) for _ in range(150)]
        assert asked.acquire(timeout=60)
        assert not asked.acquire(timeout=0.2)
        assert lines[0].ask("wishes", timeout=60) == []
        answer_now.set()
        assert [one.result(60) for one in wanted] == [{}] * 150
