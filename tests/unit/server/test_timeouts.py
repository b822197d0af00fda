"""When requests end whose message says when."""

from __future__ import annotations

import math

from convserve.errors import ConvserveError, DeadlineError
from convserve.server.timeouts import Timeouts


class Waiting:
    """A request that notes what it was told."""

    def __init__(self) -> None:
        self.told: list[ConvserveError | None] = []

    def cancel(self, why: ConvserveError | None = None) -> None:
        self.told.append(why)


def test_each_is_told_once_at_its_own_time() -> None:
    """And whoever asks learns how long nothing will happen."""
    timeouts = Timeouts()
    late, soon = Waiting(), Waiting()
    timeouts.add(20.0, late.cancel)
    timeouts.add(10.0, soon.cancel)
    assert timeouts.end(4.0) == 6.0
    assert timeouts.end(10.0) == 10.0
    assert [type(why) for why in soon.told] == [DeadlineError]
    assert late.told == []
    assert timeouts.end(25.0) == math.inf
    assert len(soon.told) == len(late.told) == 1
    assert timeouts.waiting == []


def test_what_was_answered_is_not_kept() -> None:
    """A request that is long gone when its time comes is told nothing."""
    timeouts = Timeouts()
    answered, other = Waiting(), Waiting()
    timeouts.add(10.0, answered.cancel)
    timeouts.add(10.0, other.cancel)
    told = answered.told
    del answered
    timeouts.end(10.0)
    assert told == []
    assert len(other.told) == 1


def test_answers_of_requests_that_had_hours_leave_nothing_behind() -> None:
    """Callers may name any time; what has been answered is forgotten long before, and who waits is still told."""
    timeouts = Timeouts()
    kept = [Waiting() for _ in range(10)]
    for number in range(100_000):
        answered = Waiting()
        timeouts.add(1e9 + number, answered.cancel)
        if not number % 10_000:
            timeouts.add(1e6 - number, kept[number // 10_000].cancel)
    assert len(timeouts.waiting) < 2500
    assert timeouts.end(1e8) > 0
    assert all(len(one.told) == 1 for one in kept)
