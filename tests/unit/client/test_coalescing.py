"""Which single images travel together, without threads and without time."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import pytest

from convserve.client.coalescing import BUSY_SECONDS, IMAGE_BYTES, WINDOW_SECONDS, Group, Lanes, Row, lane_of, trace_of
from convserve.client.images import Loaded
from convserve.client.requests import Options

Lane: TypeAlias = Lanes[None]

DIGITS = Options("digits", None, 1, explain=False)


def row(image: Loaded = b"x", deadline: float = 10.0, trace: str = "") -> Row[None]:
    return Row(image, deadline, (("traceparent", trace),) if trace else (), None)


def lanes(max_rows: int = 64, connections: int = 4) -> Lane:
    return Lanes(2**20, connections, max_rows)


def come(some: Lane, one: Row[None], options: Options = DIGITS, now: float = 0.0) -> Group[None] | None:
    """None: it goes alone."""
    lane = lane_of(one.image, options)
    return None if some.alone(lane) is not None else some.gather(one, lane, now)


def enter(some: Lane, now: float = 0.0, options: Options = DIGITS, image: Loaded = b"x") -> Group[None] | None:
    return come(some, row(image), options, now)


def test_a_lone_image_goes_at_once() -> None:
    """Again and again: nothing is under way when it comes."""
    some = lanes()
    for _ in range(3):
        assert some.returned(busy(some), 0.0) is None
    assert len(some) == 0


def busy(some: Lane) -> Group[None]:
    """An image that is under way."""
    single = some.alone(lane_of(b"x", DIGITS))
    assert single is not None
    return single


def test_images_gather_while_one_is_under_way_and_go_when_it_returns() -> None:
    """In the order they came, and nothing is left behind."""
    some = lanes()
    first = busy(some)
    rows = [row() for _ in range(3)]
    groups = {id(come(some, one, now=0.0001 * index)) for index, one in enumerate(rows)}
    assert len(groups) == 1
    group = some.returned(first, 0.0005)
    assert group is not None
    assert group.rows == rows
    assert not group.gathering
    assert some.returned(group, 0.001) is None
    assert len(some) == 0


def test_the_window_of_the_first_ends_the_wait() -> None:
    """Also when what is under way takes long; and once only."""
    some = lanes()
    busy(some)
    group = enter(some, 5.0)
    assert enter(some, 5.0009) is group
    assert group is not None
    assert some.due(group, 5.0 + WINDOW_SECONDS * 0.99) is None
    assert some.due(group, 5.0 + WINDOW_SECONDS) is group
    assert some.due(group, 5.0 + WINDOW_SECONDS) is None
    assert enter(some, 5.002) is not group


def test_a_full_group_goes_at_once() -> None:
    """And the next image begins another."""
    some = lanes(max_rows=3)
    busy(some)
    groups = [enter(some) for _ in range(4)]
    assert groups[0] is groups[1] is groups[2]
    assert [group.gathering for group in groups if group] == [False, False, False, True]


def test_when_every_connection_is_busy_images_wait_for_one() -> None:
    """More RPCs would only be smaller ones. A server that hangs does not hold them for ever."""
    some = lanes(connections=2)
    first = busy(some)
    second = enter(some, 0.0)
    assert second is not None
    assert some.due(second, WINDOW_SECONDS) is second
    third = enter(some, 1.0)
    assert third is not None
    assert some.due(third, 1.0 + WINDOW_SECONDS) is None
    assert some.due(third, 1.0 + BUSY_SECONDS * 0.99) is None
    assert some.returned(first, 1.0 + WINDOW_SECONDS) is third
    fourth = enter(some, 2.0)
    assert fourth is not None
    assert some.due(fourth, 2.0 + BUSY_SECONDS) is fourth


def test_a_return_does_not_cut_the_window_short_while_others_are_under_way() -> None:
    """Or many small RPCs would keep each other small."""
    some = lanes()
    first = busy(some)
    second = enter(some, 0.0)
    assert second is not None
    assert some.due(second, WINDOW_SECONDS) is second
    third = enter(some, 1.0)
    assert third is not None
    assert some.returned(first, 1.0 + WINDOW_SECONDS / 2) is None
    assert some.returned(second, 1.0 + WINDOW_SECONDS * 0.6) is third


@pytest.mark.parametrize(
    "other",
    [
        Options("cats", None, 1, explain=False),
        Options("digits", 2, 1, explain=False),
        Options("digits", "stable", 1, explain=False),
        Options("digits", None, 3, explain=False),
        Options("digits", None, 1, explain=True),
    ],
)
def test_callers_who_want_different_things_do_not_share(other: Options) -> None:
    """Each has a lane of its own, and goes at once in it."""
    some = lanes()
    busy(some)
    assert enter(some, options=other) is None
    assert enter(some, options=other) is not enter(some)
    assert len(some) == 2


def test_files_and_pixels_of_each_shape_do_not_share() -> None:
    """A message holds images of one kind."""
    some = lanes()
    busy(some)
    assert enter(some, image=np.zeros((2, 2, 1), np.uint8)) is None
    assert enter(some, image=np.zeros((2, 2, 3), np.uint8)) is None
    assert enter(some) is not None


def test_large_images_travel_alone() -> None:
    """A full group always fits a message, and files of one RPC are decoded one after the other."""
    assert Lanes(2**30, 4).takes(bytes(IMAGE_BYTES - 100))
    assert not Lanes(2**30, 4).takes(bytes(IMAGE_BYTES + 1))
    assert not Lanes(65 * 1000, 4).takes(bytes(1000))


def test_who_has_left_does_not_travel() -> None:
    """An empty group goes nowhere, and the lane ends."""
    some = lanes()
    first = busy(some)
    rows = [row(), row()]
    for one in rows:
        come(some, one)
    some.leave(rows[0])
    assert rows[1].group is not None
    assert rows[1].group.rows == [rows[1]]
    some.leave(rows[1])
    some.leave(rows[1])
    assert some.returned(first, 0.0) is None
    assert len(some) == 0


def test_rows_that_go_again_count_as_under_way() -> None:
    """The lane ends when they are back."""
    some = lanes()
    first = busy(some)
    again = some.again(first, [row()])
    assert some.returned(first, 0.0) is None
    assert len(some) == 1
    assert enter(some) is not None  # not alone
    some.returned(again, 0.0)


def test_half_of_those_who_call_do_not_wait_for_the_other_half() -> None:
    """Eight callers came back together: four go, and while those are under way the other four gather."""
    some = lanes()
    first = busy(some)
    for _ in range(7):
        enter(some)
    everybody = some.returned(first, 0.0)
    assert everybody is not None
    assert len(everybody.rows) == 7
    assert some.returned(everybody, 0.0) is None
    alone = busy(some)
    early = [enter(some) for _ in range(4)]
    assert early[-1] is not None
    assert not early[-1].gathering
    late = [enter(some) for _ in range(3)]
    assert late[-1] is not None
    assert late[-1].gathering
    assert some.returned(alone, 0.0) is None
    again = [enter(some)]
    assert again == [late[-1]]
    assert not late[-1].gathering


def test_callers_of_the_past_are_forgotten() -> None:
    """A burst does not make a few callers wait for others who do not come."""
    some = lanes()
    first = busy(some)
    for _ in range(63):
        enter(some)
    burst = some.returned(first, 0.0)
    assert burst is not None
    some.returned(burst, 0.0)
    for _ in range(40):
        some.returned(busy(some), 0.0)
    busy(some)
    second = enter(some)
    assert second is not None
    assert not second.gathering


def test_lanes_are_forgotten() -> None:
    """Callers may ask for any number of models."""
    some = lanes()
    for at in range(1000):
        single = some.alone(lane_of(b"x", Options(f"model {at}", None, 1, explain=False)))
        assert single is not None
        some.returned(single, 0.0)
    assert len(some) == 0
    assert len(some._lanes) < 100


def test_the_one_who_waits_longest_is_found() -> None:
    """Of equals, the one that came last: it is awake already."""
    rows = [row(deadline=3), row(deadline=5), row(deadline=5), row(deadline=1)]
    assert Group(lane_of(b"x", DIGITS), rows).last is rows[2]


def test_the_trace_is_the_first_callers_who_has_one() -> None:
    """An RPC has one parent."""
    assert trace_of([row(), row(trace="a"), row(trace="b")]) == (("traceparent", "a"),)
    assert trace_of([row()]) == ()


def test_a_server_that_takes_less_lowers_the_limit() -> None:
    """Never below one."""
    some = lanes(max_rows=64)
    for count, limit in ((64, 32), (40, 20), (60, 20), (2, 1), (1, 1)):
        some.refused(count)
        assert some.max_rows == limit
