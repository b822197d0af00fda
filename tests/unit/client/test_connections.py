"""Which connection the next RPC takes."""

from __future__ import annotations

from convserve.client.connections import SUSPECT_SECONDS, Pool
from support.clock import Clock


def test_a_lone_caller_uses_all_connections_in_turn() -> None:
    """Every worker of a server gets work."""
    pool = Pool("abc")
    taken = []
    for _ in range(6):
        slot = pool.take()
        taken.append(slot.connection)
        pool.give_back(slot, failed=False)
    assert taken == ["a", "b", "c", "a", "b", "c"]


def test_the_least_busy_connection_is_taken() -> None:
    """A slow RPC keeps others away from its connection."""
    pool = Pool("abc")
    slots = [pool.take() for _ in range(3)]
    assert {slot.connection for slot in slots} == {"a", "b", "c"}
    pool.give_back(slots[1], failed=False)
    assert pool.take().connection == slots[1].connection
    assert {pool.take().connection for _ in range(3)} == {"a", "b", "c"}


def test_a_connection_that_failed_is_avoided_for_a_while() -> None:
    """Failing at once, it would be the least busy one and attract everybody."""
    clock = Clock(100.0)
    pool = Pool("ab", clock)
    bad = pool.take()
    pool.give_back(bad, failed=True)
    others = [pool.take() for _ in range(5)]
    assert {slot.connection for slot in others} == {"b"}
    clock.now += SUSPECT_SECONDS
    assert pool.take().connection == "a"


def test_a_success_clears_the_suspicion() -> None:
    """It works again."""
    pool = Pool("ab", Clock(100.0))
    one, two = pool.take(), pool.take()
    for slot in (one, two):
        pool.give_back(slot, failed=True)
    again = pool.take()
    pool.give_back(again, failed=False)
    assert pool.take() is again


def test_when_all_have_failed_they_are_used_all_the_same() -> None:
    """Nothing else is left."""
    pool = Pool("ab", Clock(100.0))
    for slot in (pool.take(), pool.take()):
        pool.give_back(slot, failed=True)
    assert {pool.take().connection for _ in range(2)} == {"a", "b"}
    assert list(pool) == ["a", "b"]
