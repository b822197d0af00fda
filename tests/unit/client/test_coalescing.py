"""Which single images travel together, without threads and without time."""

from __future__ import annotations

import random
from typing import TypeAlias

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from convserve.client.coalescing import (
    BUSY_SECONDS,
    IMAGE_BYTES,
    WINDOW_SECONDS,
    Group,
    Lane,
    Lanes,
    Row,
    trace_of,
)
from convserve.client.images import Loaded
from convserve.client.requests import Options

Some: TypeAlias = Lanes[None]

DIGITS = Options("digits", None, 1, explain=False)


def row(image: Loaded = b"x", deadline: float = 10.0, trace: str = "") -> Row[None]:
    return Row(image, deadline, (("traceparent", trace),) if trace else (), None)


def lanes(max_rows: int = 64, connections: int = 4) -> Some:
    return Lanes(2**20, connections, max_rows)


def enter(some: Some, now: float = 0.0, options: Options = DIGITS, image: Loaded = b"x") -> Group[None]:
    return some.come(row(image), options, now)


def busy(some: Some) -> Group[None]:
    """An image that is under way."""
    group = enter(some)
    assert not group.gathering
    assert len(group.rows) == 1
    return group


def back(some: Some, group: Group[None], now: float = 0.0) -> Group[None] | None:
    """A group has come back, and its callers take their answers and leave. What goes then."""
    rows = list(group.rows)
    gone = [some.returned(group, now), *[some.leave(one) for one in rows]]
    found = [one for one in gone if one is not None]
    assert len(found) <= 1
    return found[0] if found else None


def test_a_lone_image_goes_at_once() -> None:
    """Again and again: nothing is under way when it comes."""
    some = lanes()
    for _ in range(3):
        assert back(some, busy(some)) is None
    assert len(some) == 0


def test_images_gather_while_one_is_under_way_and_go_when_it_returns() -> None:
    """In the order they came, and nothing is left behind."""
    some = lanes()
    first = busy(some)
    rows = [row() for _ in range(3)]
    groups = {id(some.come(one, DIGITS, 0.0001 * index)) for index, one in enumerate(rows)}
    assert len(groups) == 1
    group = back(some, first, 0.0005)
    assert group is not None
    assert group.rows == rows
    assert not group.gathering
    assert back(some, group, 0.001) is None
    assert len(some) == 0


def test_the_window_of_the_first_ends_the_wait() -> None:
    """Also when what is under way takes long; and once only."""
    some = lanes()
    busy(some)
    group = enter(some, 5.0)
    assert enter(some, 5.0009) is group
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
    assert [group.gathering for group in groups] == [False, False, False, True]


def test_when_every_connection_is_busy_images_wait_for_one() -> None:
    """More RPCs would only be smaller ones. A server that hangs does not hold them for ever."""
    some = lanes(connections=2)
    first = busy(some)
    second = enter(some, 0.0)
    assert some.due(second, WINDOW_SECONDS) is second
    third = enter(some, 1.0)
    assert some.due(third, 1.0 + WINDOW_SECONDS) is None
    assert some.due(third, 1.0 + BUSY_SECONDS * 0.99) is None
    assert back(some, first, 1.0 + WINDOW_SECONDS) is third
    fourth = enter(some, 2.0)
    assert some.due(fourth, 2.0 + BUSY_SECONDS) is fourth


def test_a_return_does_not_cut_the_window_short_while_others_are_under_way() -> None:
    """Or many small RPCs would keep each other small."""
    some = lanes()
    first = busy(some)
    second = enter(some, 0.0)
    assert some.due(second, WINDOW_SECONDS) is second
    third = enter(some, 1.0)
    assert back(some, first, 1.0 + WINDOW_SECONDS / 2) is None
    assert back(some, second, 1.0 + WINDOW_SECONDS * 0.6) is third


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
    assert not enter(some, options=other).gathering
    assert enter(some, options=other) is not enter(some)
    assert len(some) == 2


def test_files_and_pixels_of_each_shape_do_not_share() -> None:
    """A message holds images of one kind."""
    some = lanes()
    busy(some)
    assert not enter(some, image=np.zeros((2, 2, 1), np.uint8)).gathering
    assert not enter(some, image=np.zeros((2, 2, 3), np.uint8)).gathering
    assert enter(some).gathering


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
        some.come(one, DIGITS, 0.0)
    some.leave(rows[0])
    assert rows[1].group is not None
    assert rows[1].group.rows == [rows[1]]
    some.leave(rows[1])
    assert back(some, first) is None
    assert len(some) == 0


def test_rows_that_go_again_count_as_under_way() -> None:
    """The lane ends when they are back."""
    some = lanes()
    first = busy(some)
    again = some.again(first, list(first.rows))
    assert some.returned(first, 0.0) is None
    assert len(some) == 1
    assert back(some, again) is None
    assert len(some) == 0


def crowd(some: Some, count: int) -> None:
    """So many callers were here together, and have gone."""
    first = busy(some)
    group = [enter(some) for _ in range(count - 1)][-1]
    assert back(some, first) is group
    assert back(some, group) is None


def test_half_of_those_who_call_do_not_wait_for_the_other_half() -> None:
    """Eight callers came back together: four go, and while those are under way the other four gather."""
    some = lanes()
    crowd(some, 8)
    early = busy(some)
    groups = [enter(some) for _ in range(4)]
    assert [group.gathering for group in groups] == [False] * 4
    late = [enter(some) for _ in range(3)][-1]
    assert late.gathering
    assert back(some, early) is None
    assert enter(some) is late
    assert not late.gathering


def test_the_first_who_comes_back_waits_for_those_who_are_about_to() -> None:
    """Their answers are there: they will follow in no time, and should not have to wait for the RPC of the first."""
    some = lanes()
    first = busy(some)
    callers = [row() for _ in range(8)]
    group = [some.come(one, DIGITS, 0.0) for one in callers][-1]
    back(some, first)
    some.returned(group, 0.0)
    for one in callers[:3]:
        assert some.leave(one) is None
        together = enter(some)
        assert together.gathering
    assert some.leave(callers[3]) is None
    assert enter(some) is together
    assert not together.gathering  # half of them
    assert len(together.rows) == 4


def test_who_does_not_come_back_is_not_waited_for() -> None:
    """When the last has taken the answer, those who came back go. Until then their window holds."""
    some = lanes()
    first = busy(some)
    callers = [row() for _ in range(8)]
    group = [some.come(one, DIGITS, 0.0) for one in callers][-1]
    back(some, first)
    some.returned(group, 0.0)
    some.leave(callers[0])
    together = enter(some, 1.0)
    assert [some.leave(one) for one in callers[1:-1]] == [None] * 6
    assert some.due(together, 1.0 + WINDOW_SECONDS * 0.99) is None
    assert some.leave(callers[-1]) is together


def test_the_window_holds_when_an_answer_is_not_taken() -> None:
    """A caller's thread may be held up for as long as the machine likes."""
    some = lanes()
    crowd(some, 8)
    some.returned(busy(some), 0.0)
    second = enter(some, 1.0)
    assert second.gathering
    assert some.due(second, 1.0 + WINDOW_SECONDS) is second


def test_callers_of_the_past_are_forgotten() -> None:
    """A burst does not make a few callers wait for others who do not come."""
    some = lanes()
    crowd(some, 64)
    for _ in range(40):
        back(some, busy(some))
    busy(some)
    assert not enter(some).gathering


def test_lanes_are_forgotten() -> None:
    """Callers may ask for any number of models."""
    some = lanes()
    for at in range(1000):
        back(some, enter(some, options=Options(f"model {at}", None, 1, explain=False)))
    assert len(some) == 0
    assert len(some._lanes) < 100


def test_the_one_who_waits_longest_is_found() -> None:
    """Of equals, the one that came last: it is awake already."""
    rows = [row(deadline=3), row(deadline=5), row(deadline=5), row(deadline=1)]
    assert Group(Lane(DIGITS), rows).last is rows[2]


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


@given(seed=st.integers(0, 2**32), max_rows=st.sampled_from([1, 3, 64]))
def test_nobody_is_forgotten(seed: int, max_rows: int) -> None:
    """Whatever happens in whatever order: what gathers has something to wait for, and in the end all is as it was."""
    chance = random.Random(seed)
    some = lanes(max_rows, connections=2)
    inside: list[Row[None]] = []
    under_way: list[Group[None]] = []
    now = 0.0

    def go(group: Group[None] | None) -> None:
        if group is not None:
            assert not group.gathering
            assert group not in under_way
            under_way.append(group)

    for step in range(200):
        now += chance.choice([0, WINDOW_SECONDS])
        deed = chance.choice(["come", "come", "return", "leave", "look"] if step < 150 else ["return", "leave"])
        if deed == "come":
            inside.append(row())
            group = some.come(inside[-1], DIGITS, now)
            go(None if group.gathering else group)
        elif deed == "return" and under_way:
            group = under_way.pop(chance.randrange(len(under_way)))
            if len(group.rows) > 1 and chance.random() < 0.2:
                go(some.again(group, chance.sample(group.rows, len(group.rows) // 2)))
            go(some.returned(group, now))
        elif deed == "leave" and inside:
            go(some.leave(inside.pop(chance.randrange(len(inside)))))
        elif deed == "look":
            for lane in some._lanes.values():
                go(some.due(lane.group, now) if lane.group is not None else None)
        for lane in some._lanes.values():
            assert lane.under_way == len(under_way)
            assert lane.inside == len(inside)
            assert lane.answered == sum(one.group is None for one in inside)
            assert lane.group is None or lane.under_way or lane.answered
            assert lane.group is None or 0 < len(lane.group.rows) < max_rows
