"""Predicting how long a batch takes."""

from __future__ import annotations

import pytest

from convserve.batching import BatchTimes


def test_sizes_in_between_are_interpolated() -> None:
    """And those beyond the largest grow with their size."""
    times = BatchTimes({1: 1.0, 4: 2.0, 8: 4.0})
    assert [times.predict(size) for size in (1, 2, 4, 6, 8, 16)] == pytest.approx([1.0, 4 / 3, 2.0, 3.0, 4.0, 8.0])


def test_predictions_follow_what_is_seen() -> None:
    """A machine that became slower is noticed within some tens of batches."""
    times = BatchTimes({4: 1.0})
    for _ in range(50):
        times.record(4, 3.0)
    assert times.predict(4) == pytest.approx(3.0, rel=0.02)


def test_a_pause_of_the_machine_is_no_slow_batch() -> None:
    """One batch that took ten thousand times as long moves the prediction a little; many of them, to where they are."""
    times = BatchTimes({4: 0.001})
    times.record(4, 10.0)
    assert times.predict(4) < 0.002
    for _ in range(100):
        times.record(4, 10.0)
    assert times.predict(4) == pytest.approx(10.0, rel=0.02)


def test_unmeasured_sizes_teach_their_neighbour() -> None:
    """A slow batch of three says that batches of four are slow too."""
    times = BatchTimes({1: 1.0, 4: 4.0})
    times.record(3, 6.0)
    assert times.predict(4) == pytest.approx(4.4)
    assert times.predict(1) == 1.0


def test_no_measurement_is_an_error() -> None:
    """There is nothing to predict from."""
    with pytest.raises(ValueError, match="got none"):
        BatchTimes({})


def test_a_size_that_once_seemed_slow_is_not_given_up() -> None:
    """Whoever runs smaller batches because of a few slow large ones learns from those that the large are fast again."""
    times = BatchTimes({1: 0.4, 2: 0.8, 4: 1.6})
    for _ in range(50):  # another process has the core
        times.record(1, 1.2)
        times.record(4, 6.0)
    assert times.predict(4) > 4
    for _ in range(100):
        times.record(1, 0.4)
    assert times.predict(4) == pytest.approx(1.6, rel=0.05)
    assert times.predict(2) == pytest.approx(0.8, rel=0.05)
