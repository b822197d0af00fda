"""When the next worker starts, and when there is no point in it."""

from __future__ import annotations

from convserve.server.restarts import Restarts


def test_five_crashes_within_a_minute_are_a_loop() -> None:
    """Whichever workers they were; each pause is longer than the one before."""
    ends = Restarts(2)
    delays = [ends.next_delay(place, now, was_ready=True) for now, place in enumerate([0, 1, 0, 2, 1])]
    assert delays == [0.1, 0.2, 0.4, 0.8, None]


def test_all_workers_may_be_hit_at_once() -> None:
    """By the kernel, for memory, say: each is started again, one after the other; the second time is a loop."""
    ends = Restarts(16)
    delays = [ends.next_delay(place, 0, was_ready=True) for place in range(16)]
    assert delays == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, *[5.0] * 10]
    assert [ends.next_delay(place, 20, was_ready=True) for place in range(16)] == [*[5.0] * 15, None]


def test_crashes_now_and_then_are_none() -> None:
    """What is a minute old counts no more."""
    ends = Restarts(2)
    assert {ends.next_delay(0, now, was_ready=True) for now in range(0, 6000, 60)} == {0.1}


def test_a_start_that_crashes_again_and_again_is_a_loop_however_long_it_takes() -> None:
    """Five in a row of one place; one that gets ready ends the row."""
    ends = Restarts(2)
    assert [ends.next_delay(0, now, was_ready=False) for now in range(0, 400, 100)] == [0.1, 0.2, 0.4, 0.8]
    assert ends.next_delay(1, 400, was_ready=False) == 0.1
    assert ends.next_delay(0, 500, was_ready=True) == 0.1
    assert [ends.next_delay(0, now, was_ready=False) for now in range(600, 1100, 100)] == [0.1, 0.2, 0.4, 0.8, None]


def test_a_start_that_fails_for_a_reason_is_tried_for_ever() -> None:
    """The workers that serve need not end because a repository is away; pauses grow to five seconds."""
    ends = Restarts(2)
    delays = [ends.next_delay(0, now, was_ready=False, said_why=True) for now in range(20)]
    assert delays[:7] == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0]
    assert set(delays[7:]) == {5.0}
    assert ends.next_delay(0, 30, was_ready=True) == 0.1
    assert ends.next_delay(0, 31, was_ready=False, said_why=True) == 0.1
