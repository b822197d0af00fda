"""How long a server that ends goes on refusing calls before it closes the port."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from convserve.config import AuthSettings
from convserve.errors import UnavailableError
from convserve.metrics import Metrics
from convserve.server import rpc
from convserve.server.access import Access
from convserve.server.access_log import AccessLog
from convserve.server.rpc import Guard
from convserve.v1 import classification_pb2 as pb


class Clock:
    """Time that passes only in naps, which take `oversleep` times as long as they should."""

    def __init__(self, oversleep: float = 1) -> None:
        self.now, self.oversleep = 100.0, oversleep
        self.naps = 0
        self.after_nap: Callable[[], None] = lambda: None

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds * self.oversleep
        self.naps += 1
        self.after_nap()


@pytest.fixture
def drain(monkeypatch: pytest.MonkeyPatch) -> Callable[..., float]:
    """Drains, with calls that come after some naps. Returns how long that took."""

    def run(clock: Clock, calls_after: Any = ()) -> float:
        monkeypatch.setattr(rpc, "time", clock)
        monkeypatch.setattr(rpc, "monotonic", clock.monotonic)
        guard = Guard(Metrics(CollectorRegistry(), "0"), Access(AuthSettings()), AccessLog(0), threads=4)

        def call() -> None:
            if clock.naps in calls_after:
                with pytest.raises(UnavailableError):
                    guard.check(pb.ClassifyRequest())

        clock.after_nap = call
        guard.drain(0.1, 2.0)
        return clock.now - 100.0

    return run


def test_a_pause_ends_it(drain: Callable[..., float]) -> None:
    """0.1 seconds without a call, counted from the last one."""
    assert drain(Clock()) == pytest.approx(0.1)
    assert drain(Clock(), calls_after=(1, 5, 9)) == pytest.approx(0.19)


def test_callers_who_never_stop_do_not_hold_it_up_for_ever(drain: Callable[..., float]) -> None:
    """They are cut."""
    assert drain(Clock(), calls_after=range(10_000)) == pytest.approx(2.0, abs=0.02)


def test_a_pause_is_longer_where_everything_is_slow(drain: Callable[..., float]) -> None:
    """A call that is on its way for 0.3 seconds is still refused in words, where naps take ten times as long."""
    assert drain(Clock(oversleep=10), calls_after=(3,)) == pytest.approx(1.3)
