"""When a failed RPC is worth another try."""

from __future__ import annotations

import threading
from typing import Any

import pytest

import convserve
from convserve import Retry
from convserve.client.retry import Budget, Retries

GONE = convserve.UnavailableError("gone")


def retries(chance: float = 1.0, **settings: Any) -> Retries:
    return Retries(Retry(**settings), chance=lambda: chance)


def test_waits_double_up_to_the_longest() -> None:
    """Exponential backoff."""
    decide = retries(attempts=9, initial_seconds=0.05, max_seconds=0.3)
    assert [decide.delay(GONE, attempt, 60) for attempt in range(1, 6)] == pytest.approx([0.05, 0.1, 0.2, 0.3, 0.3])


def test_any_number_of_attempts_is_waited_for() -> None:
    """A client that is to try for ever does so; 2 to the 1,024th is no float."""
    decide = retries(attempts=10**6, budget=10**6, max_seconds=0.3)
    assert [decide.delay(GONE, attempt, 60) for attempt in (1024, 1025, 10**5)] == pytest.approx([0.3] * 3)


@pytest.mark.parametrize(("chance", "wait"), [(0.0, 0.05), (0.5, 0.075), (1.0, 0.1)])
def test_waits_differ_by_chance(chance: float, wait: float) -> None:
    """Callers who failed together do not come back together."""
    assert retries(chance, initial_seconds=0.1).delay(GONE, 1, 60) == pytest.approx(wait)


def test_attempts_are_limited() -> None:
    """The first one counts."""
    decide = retries(attempts=3)
    assert decide.delay(GONE, 2, 60) is not None
    assert decide.delay(GONE, 3, 60) is None
    assert Retries(None).delay(GONE, 1, 60) is None


@pytest.mark.parametrize("left", [0.0, 0.05, -1.0])
def test_no_wait_ends_after_the_deadline(left: float) -> None:
    """The caller gets the error while it is still of use."""
    assert retries(initial_seconds=0.05).delay(GONE, 1, left) is None


def test_the_servers_hint_is_honoured() -> None:
    """Never earlier than it asks, also beyond our own longest wait; and not if that is after the deadline."""
    full = convserve.OverloadedError("full", retry_after_seconds=2.0)
    assert retries(0.0).delay(full, 1, 60) == 2.0
    assert retries(1.0).delay(full, 1, 60) == 2.5
    assert retries(0.0).delay(full, 1, 1.9) is None
    assert retries(initial_seconds=0.05).delay(convserve.OverloadedError("full"), 1, 60) == 0.05


def test_a_hint_that_was_too_short_does_not_come_back_as_often_as_it_says() -> None:
    """The server's estimate counts once; whoever followed it and was refused again waits longer."""
    full = convserve.OverloadedError("full", retry_after_seconds=0.001)
    decide = retries(0.0, initial_seconds=0.05, max_seconds=1.0, attempts=9)
    waits = [decide.delay(full, attempt, 60) for attempt in range(1, 9)]
    assert waits == pytest.approx([0.001, 0.05, 0.1, 0.2, 0.4, 0.5, 0.5, 0.5])


@pytest.mark.parametrize(
    "kind",
    [
        convserve.InvalidRequestError,
        convserve.NotFoundError,
        convserve.VersionNotAvailableError,
        convserve.DeadlineError,
        convserve.InternalError,
        convserve.UnauthenticatedError,
        convserve.UnsupportedError,
    ],
)
def test_what_would_fail_again_is_not_repeated(kind: type[convserve.ConvserveError]) -> None:
    """And takes nothing from the budget."""
    decide = retries(budget=1)
    assert decide.delay(kind("no"), 1, 60) is None
    assert decide.delay(GONE, 1, 60) is not None


def test_the_budget_ends_and_comes_back_with_successes() -> None:
    """When everything fails, the client stops adding load; ten successes pay for one repetition."""
    decide = retries(budget=2, budget_ratio=0.1)
    assert [decide.delay(GONE, 1, 60) is not None for _ in range(4)] == [True, True, False, False]
    for _ in range(9):
        decide.budget.deposit()
    assert decide.delay(GONE, 1, 60) is None
    decide.budget.deposit()
    decide.budget.deposit()
    assert decide.delay(GONE, 1, 60) is not None


def test_the_budget_never_grows_beyond_its_size() -> None:
    """A quiet year does not pay for a storm."""
    budget = Budget(2, 1.0)
    for _ in range(10):
        budget.deposit()
    assert [budget.withdraw() for _ in range(3)] == [True, True, False]


def test_threads_do_not_overdraw_the_budget() -> None:
    """Exactly as many get one as there are."""
    budget = Budget(50, 0.0)
    got: list[bool] = []
    threads = [threading.Thread(target=lambda: got.extend([budget.withdraw() for _ in range(20)])) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(got) == 50


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"attempts": 0}, r"retry\.attempts is 0; it must be 1 or more"),
        ({"initial_seconds": -1}, r"retry\.initial_seconds"),
        ({"max_seconds": float("nan")}, r"retry\.max_seconds"),
        ({"budget": -1}, r"retry\.budget"),
        ({"budget_ratio": -0.1}, r"retry\.budget_ratio"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    """By name."""
    with pytest.raises(convserve.ConfigError, match=message):
        Retry(**settings)
