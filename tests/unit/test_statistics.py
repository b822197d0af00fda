"""Sums of times."""

from __future__ import annotations

import pytest

from convserve.batching import BatchRun, ReleaseReason
from convserve.statistics import Statistics


def run(rows: int, queue: float, seconds: float) -> BatchRun:
    return BatchRun(rows, rows, rows, ReleaseReason.FULL, queue, 0.0, seconds)


def test_stages_add_up_to_the_whole() -> None:
    """Also of a request that ran in two batches."""
    statistics = Statistics()
    statistics.answered(3, 0.1, 1.0, [run(2, 0.2, 0.25), run(1, 0.45, 0.25)])
    statistics.answered(1, 0.1, 0.5, [run(1, 0.1, 0.1)])
    totals = statistics.totals()
    stages = [totals.decode, totals.queue, totals.run, totals.reply]
    assert [stage.count for stage in stages] == [2, 2, 2, 2]
    assert sum(stage.seconds for stage in stages) == pytest.approx(totals.success.seconds) == pytest.approx(1.5)
    assert (totals.rows, totals.success.count, totals.failed.count) == (4, 2, 0)


def test_batches_side_by_side_take_nothing_from_other_requests() -> None:
    """The pieces of a request may take longer together than the request; the stages add up, and no sum ever falls."""
    statistics = Statistics()
    statistics.answered(1, 0.1, 0.5, [run(1, 0.1, 0.1)])
    before = statistics.totals()
    statistics.answered(2, 0.0, 1.0, [run(1, 0.1, 0.8), run(1, 0.1, 0.8)])
    totals = statistics.totals()
    assert totals.reply.seconds == pytest.approx(before.reply.seconds) == pytest.approx(0.2)
    stages = [totals.decode, totals.queue, totals.run, totals.reply]
    assert sum(stage.seconds for stage in stages) == pytest.approx(totals.success.seconds)


def test_batches_by_size() -> None:
    """And when the last one ran."""
    statistics = Statistics()
    assert statistics.totals().last_batch == 0
    for rows in (1, 8, 8):
        statistics.batch_ran(run(rows, 0.0, 0.5))
    totals = statistics.totals()
    assert {rows: (tally.count, tally.seconds) for rows, tally in totals.batches.items()} == {1: (1, 0.5), 8: (2, 1.0)}
    assert totals.last_batch > 1e9


def test_shares_add_up() -> None:
    """Counts and times are summed, the last batch is the latest; a version that one process lacks is the other's."""
    first, second = Statistics(), Statistics()
    first.answered(3, 0.1, 1.0, [run(3, 0.2, 0.25)])
    first.batch_ran(run(3, 0.2, 0.25))
    second.answered(1, 0.1, 0.5, [run(1, 0.1, 0.1)])
    second.failed(0.5)
    for rows in (1, 3):
        second.batch_ran(run(rows, 0.1, 0.5))
    totals = first.totals()
    totals.add(second.totals())
    assert (totals.rows, totals.success.count, totals.failed.count) == (4, 2, 1)
    assert totals.success.seconds == pytest.approx(1.5)
    assert totals.run.seconds == pytest.approx(0.35)
    assert {rows: (tally.count, tally.seconds) for rows, tally in totals.batches.items()} == {3: (2, 0.75), 1: (1, 0.5)}
    assert totals.last_batch == second.totals().last_batch
    assert first.totals().rows == 3


def test_totals_are_a_copy() -> None:
    """What was read does not change any more."""
    statistics = Statistics()
    before = statistics.totals()
    statistics.failed(0.1)
    assert (before.failed.count, statistics.totals().failed.count) == (0, 1)
