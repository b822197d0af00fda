"""A call on the fast lane, apart from its loop."""

from __future__ import annotations

from convserve.errors import CancelledError
from convserve.server.lane import _LaneCall


class Gone(_LaneCall):
    """A call whose caller has gone."""

    __slots__ = ("outcomes",)

    def __init__(self) -> None:
        self._gone = True
        self.outcomes: list[bytes | BaseException] = []

    def _answer(self, outcome: bytes | BaseException) -> None:
        self.outcomes.append(outcome)


def test_a_call_that_was_given_up_in_the_line_for_threads_is_not_started() -> None:
    """Its files would be decoded for nobody, before those of callers who still wait."""
    call = Gone()
    call._start_beside(None)
    assert [type(outcome) for outcome in call.outcomes] == [CancelledError]
