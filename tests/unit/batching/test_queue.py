"""The queue forms batches. No test here waits: `now` is a number."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from convserve.batching import Batch, BatchQueue, BatchRun, Item, Outputs, Priority, QueueLimits, ReleaseReason
from convserve.errors import DeadlineError, OverloadedError


def item(rows: int = 1, *, deadline: float = math.inf, priority: Priority = Priority.NORMAL) -> Item:
    return Item(np.zeros((rows, 2, 2, 1), np.uint8), lambda outcome, runs: None, deadline=deadline, priority=priority)


def queue(**limits: float) -> BatchQueue:
    return BatchQueue(QueueLimits(**limits))  # type: ignore[arg-type]


def take(waiting: BatchQueue, now: float, *, draining: bool = False, most_rows: int = 0, spare_rows: int = 0) -> Batch:
    batch = waiting.take(now, draining=draining, most_rows=most_rows, spare_rows=spare_rows)
    assert isinstance(batch, Batch)
    return batch


def test_an_empty_queue_gives_nothing() -> None:
    """Nothing waits: there is no time at which to ask again."""
    assert queue().take(0.0) is None


def test_without_a_window_whatever_waits_goes_at_once() -> None:
    """A delay of 0 never waits for company."""
    waiting = queue(max_batch_size=8)
    first, second = item(2), item(1)
    waiting.offer(first, 1.0)
    waiting.offer(second, 2.0)
    batch = take(waiting, 2.0)
    assert [(part.item, part.start, part.stop) for part in batch.parts] == [(first, 0, 2), (second, 0, 1)]
    assert (batch.rows, batch.reason, batch.first_enqueued, batch.released) == (3, ReleaseReason.IDLE, 1.0, 2.0)
    assert waiting.take(2.0) is None


def test_the_window_counts_from_the_first_row() -> None:
    """Later rows do not prolong the wait of the first."""
    waiting = queue(max_batch_size=8, max_queue_delay=1.0)
    waiting.offer(item(), 10.0)
    waiting.offer(item(), 10.9)
    assert waiting.take(10.9) == 11.0
    batch = take(waiting, 11.0)
    assert (batch.rows, batch.reason) == (2, ReleaseReason.WINDOW)


def test_a_full_batch_does_not_wait_for_its_window() -> None:
    """Rows, not requests, fill a batch."""
    waiting = queue(max_batch_size=4, max_queue_delay=1.0)
    waiting.offer(item(3), 0.0)
    assert waiting.take(0.0) == 1.0
    waiting.offer(item(1), 0.1)
    batch = take(waiting, 0.1)
    assert (batch.rows, batch.reason) == (4, ReleaseReason.FULL)


def test_the_most_urgent_deadline_ends_the_window() -> None:
    """A batch leaves early enough for its most urgent row: two predicted runs before the deadline."""
    waiting = BatchQueue(QueueLimits(max_batch_size=8, max_queue_delay=1.0), lambda rows: 0.1 * rows)
    waiting.offer(item(), 0.0)
    waiting.offer(item(deadline=0.9), 0.0)
    assert waiting.take(0.0) == pytest.approx(0.5)
    batch = take(waiting, 0.5)
    assert (batch.rows, batch.reason) == (2, ReleaseReason.DEADLINE)


def test_draining_ends_the_window() -> None:
    """A server that goes away waits for nobody."""
    waiting = queue(max_batch_size=8, max_queue_delay=1.0)
    waiting.offer(item(), 0.0)
    assert take(waiting, 0.0, draining=True).reason is ReleaseReason.DRAIN


def test_a_large_request_is_split_in_order() -> None:
    """It fills batch after batch; the last one has room for others."""
    waiting = queue(max_batch_size=4)
    large, small = item(6), item(1)
    waiting.offer(large, 0.0)
    waiting.offer(small, 0.0)
    first, second = take(waiting, 0.0), take(waiting, 0.0)
    assert [(part.item, part.start, part.stop) for part in first.parts] == [(large, 0, 4)]
    assert [(part.item, part.start, part.stop) for part in second.parts] == [(large, 4, 6), (small, 0, 1)]


def test_a_request_is_kept_together_as_far_as_rows_are_spare() -> None:
    """Spare rows are for the item that would be split, and for nobody else; what needs more is split as ever."""
    waiting = queue(max_batch_size=16)
    first, second, large = item(3), item(2), item(9)
    for one in (first, second, large, item(1)):
        waiting.offer(one, 0.0)
    kept = take(waiting, 0.0, most_rows=4, spare_rows=1)
    assert [(part.item, part.start, part.stop) for part in kept.parts] == [(first, 0, 3), (second, 0, 2)]
    torn = take(waiting, 0.0, most_rows=4, spare_rows=4)
    assert [(part.item, part.start, part.stop) for part in torn.parts] == [(large, 0, 4)]


def test_no_rows_are_spare_beyond_the_largest_batch() -> None:
    """A model that was proved up to a batch size is never given more."""
    waiting = queue(max_batch_size=4)
    waiting.offer(item(6), 0.0)
    assert take(waiting, 0.0, most_rows=3, spare_rows=3).rows == 3


def test_higher_priorities_go_first() -> None:
    """Within one priority, the order is that of arrival."""
    waiting = queue(max_batch_size=2)
    low, normal, high, high_later = (
        item(priority=p) for p in (Priority.LOW, Priority.NORMAL, Priority.HIGH, Priority.HIGH)
    )
    for one in (low, normal, high, high_later):
        waiting.offer(one, 0.0)
    assert [part.item for part in take(waiting, 0.0).parts] == [high, high_later]
    assert [part.item for part in take(waiting, 0.0).parts] == [normal, low]


def test_a_full_queue_refuses_and_says_when_to_come_back() -> None:
    """The hint is how long the queue takes to empty; nothing of the refused request stays."""
    waiting = BatchQueue(QueueLimits(max_batch_size=2, max_queue_rows=4), lambda rows: 0.5)
    waiting.offer(item(4), 0.0)
    with pytest.raises(OverloadedError, match="4 rows") as refused:
        waiting.offer(item(1), 0.0)
    assert refused.value.retry_after_seconds == 1.0
    assert waiting.rows == 4


def test_bytes_are_bounded_too() -> None:
    """Large images fill the queue before their number does."""
    waiting = queue(max_queue_bytes=11)
    waiting.offer(item(2), 0.0)
    with pytest.raises(OverloadedError, match="8 bytes"):
        waiting.offer(item(1), 0.0)


def test_a_passed_deadline_is_not_queued() -> None:
    """Nobody would read the answer."""
    with pytest.raises(DeadlineError):
        queue().offer(item(deadline=1.0), 1.0)


def test_expired_items_never_run() -> None:
    """They are dropped while the batch forms, wherever they stand, and are handed to the owner to be answered."""
    waiting = queue(max_batch_size=8)
    alive, early, late = item(), item(deadline=5.0), item(deadline=5.0)
    for one in (early, alive, late):
        waiting.offer(one, 0.0)
    assert [part.item for part in take(waiting, 6.0).parts] == [alive]
    assert waiting.drops.expired == [early, late]
    assert (waiting.rows, waiting.bytes) == (0, 0)


def test_a_queue_of_the_dead_gives_nothing() -> None:
    """No empty batch is formed."""
    waiting = queue()
    waiting.offer(item(deadline=5.0), 0.0)
    assert waiting.take(6.0) is None


def test_discarded_items_free_their_room() -> None:
    """A cancelled request leaves at once, not when its turn comes."""
    waiting = queue(max_queue_rows=1, max_batch_size=1)
    gone = item()
    waiting.offer(gone, 0.0)
    assert waiting.discard(gone)
    assert not waiting.discard(gone)
    waiting.offer(item(), 0.0)
    assert waiting.drops.cancelled == 1


def test_a_split_request_that_failed_leaves_the_queue() -> None:
    """When a piece has failed, the other pieces are not run; their caller has not gone, and is not counted as such."""
    waiting = queue(max_batch_size=2)
    large = item(5)
    waiting.offer(large, 0.0)
    take(waiting, 0.0)
    large.finish(RuntimeError("broken"))
    assert waiting.take(0.0) is None
    assert (waiting.rows, waiting.bytes, waiting.drops.cancelled) == (0, 0, 0)


def test_a_request_that_fails_while_its_rest_is_taken_makes_no_empty_batch() -> None:
    """With several slots a piece may fail in any moment, also between two looks at the item."""

    def fail(rows: int) -> float:
        last.finish(RuntimeError("broken"))
        return 0.0

    waiting = BatchQueue(QueueLimits(), fail)
    last = item(deadline=10.0)
    waiting.offer(last, 0.0)
    assert waiting.take(0.0) is None
    assert (waiting.rows, waiting.drops.cancelled) == (0, 0)


def test_drain_empties_the_queue() -> None:
    """What was in it comes back, to be refused."""
    waiting = queue()
    items = [item(), item(priority=Priority.HIGH)]
    for one in items:
        waiting.offer(one, 0.0)
    assert set(waiting.drain()) == set(items)
    assert (waiting.rows, waiting.bytes, waiting.seconds_ahead()) == (0, 0, 0.0)


@given(
    st.lists(
        st.tuples(st.integers(1, 9), st.sampled_from(Priority), st.sampled_from([0.5, 2.0, math.inf]), st.booleans()),
        max_size=30,
    ),
    st.integers(1, 6),
)
def test_every_row_leaves_exactly_once(requests: list[tuple[int, Priority, float, bool]], size: int) -> None:
    """Rows that were batched, dropped or discarded add up to those offered, and the accounts return to zero."""
    waiting = queue(max_batch_size=size, max_queue_rows=10_000)
    seen: dict[Item, list[tuple[int, int]]] = {}
    discarded = set()
    for rows, priority, deadline, gone in requests:
        one = item(rows, deadline=deadline, priority=priority)
        waiting.offer(one, 0.0)
        seen[one] = []
        if gone:
            waiting.discard(one)
            discarded.add(one)
    while (batch := waiting.take(1.0)) is not None:
        assert isinstance(batch, Batch)
        assert batch.rows == sum(part.stop - part.start for part in batch.parts) <= size
        for part in batch.parts:
            seen[part.item].append((part.start, part.stop))
    assert (waiting.rows, waiting.bytes, waiting.seconds_ahead()) == (0, 0, 0.0)
    for one, parts in seen.items():
        if one in discarded or one.deadline <= 1.0:
            assert parts == []
        else:
            assert [row for start, stop in parts for row in range(start, stop)] == list(range(one.rows))


def _run(rows: int) -> BatchRun:
    return BatchRun(rows, rows, rows, ReleaseReason.FULL, 0.0, 0.0, 0.0)


def _outputs(values: list[float]) -> Outputs:
    array = np.array(values, np.float32)[:, None]
    return Outputs(array, array)


def test_pieces_come_back_in_the_order_of_the_rows() -> None:
    """Whichever piece finishes first, the answer is whole and in order, and its batches are too."""
    answers: list[tuple[Outputs | BaseException, list[BatchRun]]] = []
    large = Item(np.zeros((3, 1, 1, 1), np.uint8), lambda outcome, runs: answers.append((outcome, runs)))
    large.split()
    large.complete_rows(2, _outputs([2.0]), _run(1))
    assert not answers
    large.complete_rows(0, _outputs([0.0, 1.0]), _run(2))
    ((outcome, runs),) = answers
    assert isinstance(outcome, Outputs)
    assert outcome.probabilities[:, 0].tolist() == [0.0, 1.0, 2.0]
    assert [run.item_rows for run in runs] == [2, 1]


def test_an_item_is_answered_once() -> None:
    """Set unless done."""
    answers: list[object] = []
    one = Item(np.zeros((1, 1, 1, 1), np.uint8), lambda outcome, runs: answers.append(outcome))
    failure = RuntimeError("first")
    assert one.finish(failure)
    assert not one.finish(RuntimeError("second"))
    one.complete_rows(0, _outputs([0.0]), _run(1))
    assert answers == [failure]
