"""What a failed RPC of several callers means for each of them: nobody fails for having travelled with others. Pure."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

from convserve.client import status
from convserve.client.coalescing import Lanes, Row
from convserve.client.results import Classification
from convserve.client.retry import Budget
from convserve.errors import ConvserveError, DeadlineError, InternalError, InvalidRequestError

W = TypeVar("W")

Outcome: TypeAlias = Classification | Exception
"""What one caller gets."""

Settle: TypeAlias = Callable[[Iterable[tuple[Row[W], Outcome]]], None]
"""Gives callers what they get."""

Exchange: TypeAlias = Generator[Sequence[Row[W]], list[Classification] | ConvserveError, list[list[Row[W]]]]
"""Yields rows to send in one RPC, takes what came of it, and returns rows that must go again, each list in an RPC of
its own."""


def exchange(
    rows: list[Row[W]], lanes: Lanes[W], budget: Budget, clock: Callable[[], float], settle: Settle[W]
) -> Exchange[W]:
    """Send rows and settle with those whose fate is known after it.

    Args:
        rows: at least one.
        lanes: learns how many rows the server takes at once.
        budget: pays for repetitions that may well fail again.
        clock: what the rows' deadlines are readings of.
        settle: called for each row that does not go again.
    """
    outcome = yield rows
    if not isinstance(outcome, ConvserveError):
        settle(zip(rows, outcome, strict=True))
        return []
    everyone = range(len(rows))
    verdict = judge(outcome, len(rows), max(row.deadline for row in rows) - clock())
    again = list(verdict.again)
    if verdict.costs and not all(budget.withdraw() for _ in again):
        settle(_failures(rows, outcome, everyone))
        return []
    settle(_failures(rows, outcome, verdict.failed))
    if verdict.probe:
        first = again.pop(0)
        alone = yield rows[: len(first)]
        if not isinstance(alone, ConvserveError):
            lanes.refused(len(rows))
            settle([(rows[0], alone[0])])
        elif isinstance(alone, InvalidRequestError) and _named(alone) is None:
            settle(_failures(rows, alone, everyone))
            return []
        else:
            settle(_failures(rows, alone, first))
    return [[rows[at] for at in part] for part in again]


@dataclass(frozen=True)
class Verdict:
    """Who has failed and who goes again, by position."""

    failed: range
    """Rows that the error is about."""
    again: tuple[range, ...]
    """Rows that must be sent again, each range in an RPC of its own."""
    probe: bool = False
    """Whether the first range, of one row, tells about the others: they go after it, or share its error."""
    costs: bool = False
    """Whether repeating takes from the retry budget, because it may well fail again."""


def judge(error: ConvserveError, count: int, seconds_left: float) -> Verdict:
    """Decide who of `count` rows has failed.

    * One file is named as bad: those before it are good and go together; those after it are unknown and go in two
      halves, so that k bad ones cost about 3k RPCs and log(count) rounds.
    * Something else is refused. Either all would be refused alone, or so many at once are: one is sent alone to see.
    * The server failed, or cannot make the deadline with so many: in two halves, at the cost of the retry budget.
    * Anything else is everybody's error.
    """
    everyone = range(count)
    if count == 1:
        return Verdict(everyone, ())
    if isinstance(error, InvalidRequestError):
        bad = _named(error)
        if bad is None or bad >= count:
            return Verdict(range(0), (everyone[:1], *_halves(everyone[1:])), probe=True)
        return Verdict(everyone[bad : bad + 1], (*filter(len, [everyone[:bad]]), *_halves(everyone[bad + 1 :])))
    if isinstance(error, InternalError) or (isinstance(error, DeadlineError) and seconds_left > 0):
        return Verdict(range(0), _halves(everyone), costs=True)
    return Verdict(everyone, ())


def _failures(rows: Sequence[Row[W]], error: ConvserveError, which: range) -> list[tuple[Row[W], Outcome]]:
    """An error for each of some rows, of its own, that counts positions from its own image."""
    return [(rows[at], status.moved(error, -at)) for at in which]


def _named(error: InvalidRequestError) -> int | None:
    """Position of the image that an error is about; None when it is about the whole request."""
    for violation in error.violations:
        name, _, rest = violation.field.partition("[")
        if name == "encoded.images" and rest.endswith("]") and rest[:-1].isdecimal():
            return int(rest[:-1])
    return None


def _halves(rows: range) -> tuple[range, ...]:
    """Two halves, those that are empty left out."""
    middle = len(rows) // 2
    return tuple(filter(len, (rows[:middle], rows[middle:])))
