"""Which version answers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convserve.routing import Routes, check_alias, default_version, shadow_version, split_version

IDS = [f"request-{number}" for number in range(20_000)]


def test_stable_is_the_default_while_it_is_available() -> None:
    """Else the highest available version answers."""
    routes = Routes(aliases={"stable": 2})
    assert default_version(routes, {1, 2, 3}, 3) == 2
    assert default_version(routes, {1, 3}, 3) == 3
    assert default_version(Routes(), {1, 3}, 3) == 3


def test_a_split_takes_its_share() -> None:
    """5 percent of 20,000 ids are 1,000, give or take what chance allows (four standard deviations)."""
    routes = Routes(aliases={"canary": 4, "beta": 5}, split={"canary": 5.0, "beta": 20.0})
    chosen = [split_version(routes, "mnist", one, {3, 4, 5}) for one in IDS]
    assert chosen.count(4) == pytest.approx(1_000, abs=125)
    assert chosen.count(5) == pytest.approx(4_000, abs=230)


@given(st.text())
def test_a_split_is_deterministic(request_id: str) -> None:
    """The same id meets the same version, every time and everywhere."""
    routes = Routes(aliases={"canary": 4}, split={"canary": 50.0})
    assert len({split_version(routes, "mnist", request_id, {4}) for _ in range(3)}) == 1


def test_a_larger_share_keeps_those_it_had() -> None:
    """Going from 5 to 20 percent moves requests to the canary and none away from it."""
    small, large = (Routes(aliases={"canary": 4}, split={"canary": share}) for share in (5.0, 20.0))
    before = {one for one in IDS if split_version(small, "m", one, {4})}
    assert before <= {one for one in IDS if split_version(large, "m", one, {4})}


def test_a_canary_that_is_not_available_gets_nothing() -> None:
    """Its share is answered by the default."""
    routes = Routes(aliases={"canary": 4}, split={"canary": 100.0})
    assert split_version(routes, "mnist", "id", {3}) is None


def test_a_shadow_takes_its_share_independently_of_the_split() -> None:
    """The sample is not the canary's sample."""
    routes = Routes(aliases={"canary": 4}, split={"canary": 10.0}, shadow="canary", shadow_percent=10.0)
    split = {one for one in IDS if split_version(routes, "m", one, {4})}
    shadowed = {one for one in IDS if shadow_version(routes, "m", one, {4})}
    assert len(shadowed) == pytest.approx(2_000, abs=180)
    assert len(split & shadowed) == pytest.approx(200, abs=60)
    assert shadow_version(routes, "m", "id", {3}) is None


@pytest.mark.parametrize("name", ["", "1", "-a", "a b", "a/b", "ä", "a" * 65, "a\n"])
def test_aliases_cannot_be_mistaken(name: str) -> None:
    """Not for a version number, nor for a path."""
    with pytest.raises(ValueError, match="alias is"):
        check_alias(name)
