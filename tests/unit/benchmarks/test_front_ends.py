"""What is made of simulated rates."""

from __future__ import annotations

import math
from typing import Any

import pytest

from benchmarks import front_ends
from benchmarks.device_simulation import Costs, Device
from benchmarks.front_ends import Case


def rates(own: float, among: float) -> dict[str, Any]:
    return {"highest_rates": {"own_sessions": own, "one_executor_among": among}}


def test_each_design_has_the_best_number_of_front_ends_that_its_cores_allow() -> None:
    """Own sessions that are worse with 8 than with 4 count with 4; beyond the realistic number nothing counts."""
    found = front_ends.verdict({"a": {"front_ends": {"4": rates(100, 50), "8": rates(20, 120), "16": rates(20, 500)}}})
    assert found["gain_by_cores"] == {"a": {"4": 0.5, "8": 1.2, "16": 5.0}}
    assert found["worth_it"] == []
    found = front_ends.verdict({"a": {"front_ends": {"4": rates(100, 50), "8": rates(20, 125)}}})
    assert found["worth_it"] == ["a, 8 cores"]


def test_more_than_the_front_ends_can_handle_is_no_latency() -> None:
    """Above capacity the queue grows for as long as one simulates: a figure would say how long that was."""
    case = Case(Device(0.2e-3, 1e-6), Costs(handling=200e-6), "assumed")
    assert front_ends.latencies(front_ends.own(2), case, 12_000) == (math.inf, math.inf)
    p50, p99 = front_ends.latencies(front_ends.own(2), case, 5_000)
    assert 0.4e-3 < p50 < p99 < front_ends.P99_SECONDS
    assert front_ends.highest_rate(front_ends.own(2), case) == pytest.approx(10_000, rel=0.05)
