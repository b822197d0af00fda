"""Nobody fails for having travelled with others."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

import convserve
from convserve import Classification, InvalidRequestError, Prediction
from convserve.client.coalescing import Lanes, Row
from convserve.client.retry import Budget
from convserve.client.splitting import Outcome, exchange, judge

NOBODY = range(0)


def bad(position: int) -> InvalidRequestError:
    return InvalidRequestError.of(f"encoded.images[{position}]", "is damaged")


def answer(value: int) -> Classification:
    return Classification((Prediction(str(value), value, 1.0),), "m", 1, (), None, "")


class Server:
    """Refuses damaged files, too many images, all of them, or fails."""

    def __init__(
        self, *, damaged: frozenset[int] = frozenset(), takes: int = 64, poison: frozenset[int] = frozenset()
    ) -> None:
        self.damaged, self.takes, self.poison = damaged, takes, poison
        self.rpcs: list[int] = []

    def __call__(self, values: Sequence[int]) -> list[Classification] | convserve.ConvserveError:
        self.rpcs.append(len(values))
        if len(values) > self.takes:
            return InvalidRequestError.of("encoded.images", f"{len(values)} images came")
        for position, value in enumerate(values):
            if value in self.damaged:
                return bad(position)
        if self.poison.intersection(values):
            return convserve.InternalError("internal error")
        return [answer(value) for value in values]


def run(server: Server, count: int, budget: int = 1000) -> tuple[dict[int, Outcome], Lanes[int]]:
    """What each of `count` callers gets, with everything that must go again sent again."""
    lanes: Lanes[int] = Lanes(2**20, 4)
    outcomes: dict[int, Outcome] = {}

    def settle(found: object) -> None:
        for row, outcome in found:  # type: ignore[attr-defined]
            assert row.waiter not in outcomes, "settled twice"
            outcomes[row.waiter] = outcome

    queue = deque([[Row(b"x", 10.0, (), value) for value in range(count)]])
    purse = Budget(budget, 0)
    while queue:
        steps = exchange(queue.popleft(), lanes, purse, lambda: 0.0, settle)
        try:
            sending = next(steps)
            while True:
                sending = steps.send(server([row.waiter for row in sending]))
        except StopIteration as end:
            queue.extend(end.value)
    return outcomes, lanes


@given(count=st.integers(1, 64), damaged=st.frozensets(st.integers(0, 63)), takes=st.sampled_from([1, 3, 10, 64]))
def test_everybody_gets_exactly_his_own_outcome(count: int, damaged: frozenset[int], takes: int) -> None:
    """Damaged files fail alone, and their errors count from the caller's own image; all others are answered."""
    outcomes, _ = run(Server(damaged=damaged, takes=takes), count)
    assert sorted(outcomes) == list(range(count))
    for value, outcome in outcomes.items():
        if value in damaged:
            assert isinstance(outcome, InvalidRequestError)
            assert str(outcome) == "encoded.images[0]: is damaged"
            assert outcome.violations[0].field == "encoded.images[0]"
        else:
            assert outcome == answer(value)


@given(damaged=st.frozensets(st.integers(0, 63), min_size=1))
def test_damaged_files_cost_few_rpcs(damaged: frozenset[int]) -> None:
    """About three for each, and never more than twice what single calls would have cost."""
    server = Server(damaged=damaged)
    run(server, 64)
    assert len(server.rpcs) <= min(4 * len(damaged) + 1, 128)


@given(poison=st.frozensets(st.integers(0, 31), max_size=3))
def test_an_image_that_breaks_the_server_fails_alone(poison: frozenset[int]) -> None:
    """While the retry budget lasts."""
    outcomes, _ = run(Server(poison=poison), 32)
    failed = {value for value, outcome in outcomes.items() if isinstance(outcome, convserve.InternalError)}
    assert failed == poison


def test_a_broken_server_is_not_asked_again_and_again() -> None:
    """Without budget the first answer is everybody's."""
    server = Server(poison=frozenset(range(64)))
    outcomes, _ = run(server, 64, budget=1)
    assert server.rpcs == [64]
    assert {type(outcome) for outcome in outcomes.values()} == {convserve.InternalError}


def test_a_request_that_all_get_wrong_is_sent_twice() -> None:
    """One alone shows that it is not their number; each gets an error of its own."""
    server = Server(takes=0)
    outcomes, lanes = run(server, 64)
    assert server.rpcs == [64, 1]
    assert len({id(outcome) for outcome in outcomes.values()}) == 64
    assert lanes.max_rows == 64


def test_a_server_that_takes_less_is_remembered() -> None:
    """The next groups are smaller."""
    outcomes, lanes = run(Server(takes=16), 64)
    assert len(outcomes) == 64
    assert lanes.max_rows <= 16


@pytest.mark.parametrize(
    ("error", "left", "failed", "again"),
    [
        (bad(0), 1.0, range(1), [range(1, 4), range(4, 8)]),
        (bad(7), 1.0, range(7, 8), [range(7)]),
        (bad(2), 1.0, range(2, 3), [range(2), range(3, 5), range(5, 8)]),
        (convserve.NotFoundError("no"), 1.0, range(8), []),
        (convserve.UnavailableError("no"), 1.0, range(8), []),
        (convserve.OverloadedError("no"), 1.0, range(8), []),
        (convserve.DeadlineError("passed"), 0.0, range(8), []),
        (convserve.DeadlineError("cannot be met"), 1.0, NOBODY, [range(4), range(4, 8)]),
        (convserve.InternalError("no"), math.inf, NOBODY, [range(4), range(4, 8)]),
    ],
)
def test_verdicts(error: convserve.ConvserveError, left: float, failed: range, again: list[range]) -> None:
    """Who has failed and who goes again."""
    verdict = judge(error, 8, left)
    assert (verdict.failed, list(verdict.again)) == (failed, again)
    assert judge(error, 1, left).failed == range(1)
