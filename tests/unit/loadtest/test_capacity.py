"""The capacity plan: service times, the queueing model, the simulation, and what they say together."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from convserve.__main__ import main
from convserve.batching import QueueLimits
from convserve.errors import ConfigError, ConvserveError
from convserve.loadtest import arrivals, plan, queueing, service_times, simulation, slo
from convserve.loadtest.service_times import ServiceTimes

TIMES = ServiceTimes(0.0003, 0.0001, 0.0, 64)


def simulated(times: ServiceTimes, rate: float, requests: int = 30_000) -> simulation.Simulated:
    return simulation.simulate(arrivals.poisson(arrivals.constant(rate, requests / rate), 3), times)


def test_a_line_through_batch_times() -> None:
    """Exact where the times lie on one; never negative where noise says so."""
    fixed, each = service_times.fit({size: 0.002 + 0.0005 * size for size in (1, 8, 64)})
    assert (fixed, each) == pytest.approx((0.002, 0.0005))
    assert service_times.fit({1: 0.001, 2: 0.0025})[0] >= 0
    assert service_times.fit({1: 0.003, 64: 0.002})[1] >= 0


def test_one_server_without_batches_is_the_textbooks() -> None:
    """Batches of one and constant times are M/D/1: the mean wait is rho / (2 (1 - rho)) service times."""
    times = ServiceTimes(0.0, 0.001, 0.0, 1)
    for load in (0.5, 0.8):
        found = simulated(times, load * 1000, 60_000)
        wait = load / (2 * (1 - load)) * 0.001
        assert found.latencies.mean() == pytest.approx(0.001 + wait, rel=0.04)
        # P(no wait) = 1 - rho: as many take exactly one service time
        assert np.mean(found.latencies < 0.001 + 1e-9) == pytest.approx(1 - load, abs=0.02)


@pytest.mark.parametrize("load", [0.2, 0.7])
def test_a_server_that_wakes_up_slowly_is_the_textbooks(load: float) -> None:
    """M/D/1 with setup: the wait has (2 U + rate U²) / (2 (1 + rate U)) on top, for a setup of U (Takagi, 1991)."""
    setup, rate = 0.002, load * 1000
    times = ServiceTimes(0.0, 0.001, 0.0, 1, setup=((0.0, setup),))
    wait = load / (2 * (1 - load)) * 0.001 + (2 * setup + rate * setup**2) / (2 * (1 + rate * setup))
    assert simulated(times, rate, 60_000).latencies.mean() == pytest.approx(0.001 + wait, rel=0.03)


def test_setup_grows_with_idleness() -> None:
    """From nothing, along straight lines, to what it is after the longest time that was measured."""
    times = ServiceTimes(0.001, 0.0, 0.0, 8, setup=((0.002, 0.001), (0.010, 0.002)))
    found = simulation.simulate(np.array([0.001, 0.003, 0.500]), times)
    # idle for 1 ms; then for 0.5 ms until the second comes; then for long
    assert found.latencies == pytest.approx([0.0015, 0.00125, 0.003])
    assert times.setup_after(0.006) == pytest.approx(0.0015)
    assert TIMES.setup_after(1.0) == 0


def test_setup_survives_json() -> None:
    """And the JSON of a plan from before there was any is read."""
    times = ServiceTimes(0.001, 0.0, 0.0, 8, setup=((0.002, 0.001), (0.010, 0.002)), stretch=((0.1, 1.4), (0.6, 1.1)))
    written = json.loads(json.dumps(times.to_json()))
    assert service_times.from_json(written) == times
    del written["setup_seconds"], written["stretch"]
    assert service_times.from_json(written) == replace(times, setup=(), stretch=())


def test_a_server_that_rests_runs_slower() -> None:
    """Along straight lines between the loads that were measured, up to capacity; no more so below the lowest."""
    times = ServiceTimes(0.001, 0.001, 0.0, 1, stretch=((0.1, 1.4), (0.6, 1.1)))
    assert times.capacity == 500
    assert [times.at(rate).run(1) for rate in (5, 50, 175, 300, 400, 500)] == pytest.approx(
        [0.0028, 0.0028, 0.0025, 0.0022, 0.0021, 0.002]
    )
    slower = ServiceTimes(0.00125, 0.00125, 0.0, 1)
    assert queueing.percentiles(times, 175, [0.99]) == queueing.percentiles(slower, 175, [0.99])
    assert plan.predict(times, 175).simulated == plan.predict(slower, 175).simulated


@pytest.mark.parametrize("load", [0.1, 0.5, 0.85])
@pytest.mark.parametrize(
    "times",
    [
        TIMES,
        ServiceTimes(0.001, 0.0005, 0.0, 4),
        ServiceTimes(0.001, 0.0005, 0.0, 4, setup=((0.0, 0.0008),)),
        ServiceTimes(0.0003, 0.0001, 0.0, 64, setup=((0.0002, 0.0002), (0.004, 0.0005))),
    ],
)
def test_model_and_simulation_agree(times: ServiceTimes, load: float) -> None:
    """Two ways to the same: within 5 % at the median and 12 % at p99 where only batches count."""
    rate = load * times.capacity
    p50, p99 = queueing.percentiles(times, rate, [0.5, 0.99])
    found = simulated(times, rate, 60_000)
    assert p50 == pytest.approx(found.percentile(0.5), rel=0.05)
    assert p99 == pytest.approx(found.percentile(0.99), rel=0.12)


def test_the_model_stays_near_the_simulation_with_rpc_work() -> None:
    """Replies that leave one by one are followed approximately: within a quarter."""
    times = ServiceTimes(5e-5, 5e-5, 15e-5, 64)
    (p99,) = queueing.percentiles(times, 0.7 * times.capacity, [0.99])
    assert p99 == pytest.approx(simulated(times, 0.7 * times.capacity).percentile(0.99), rel=0.25)


def test_a_lone_request_takes_its_own_time() -> None:
    """Handling in, a run of one, handling out, and what comes besides."""
    times = ServiceTimes(0.001, 0.0005, 0.0004, 8, besides=(0.002,))
    found = simulation.simulate(np.array([0.0, 1.0, 2.0]), times)
    assert found.latencies == pytest.approx([0.0039] * 3)
    assert queueing.percentiles(times, 0.01, [0.5])[0] == pytest.approx(0.0039, rel=1e-3)


def test_what_comes_during_a_run_shares_the_next() -> None:
    """Pull batching: one runs alone, the three that came meanwhile run together."""
    times = ServiceTimes(0.010, 0.001, 0.0, 8)
    found = simulation.simulate(np.array([0.0, 0.002, 0.003, 0.004]), times)
    assert found.batches == 2
    assert found.latencies == pytest.approx([0.011, 0.022, 0.021, 0.020])


def test_a_machine_that_is_slow_for_a_while() -> None:
    """Whatever begins in that while takes as many times as long: run and RPC work."""
    times = ServiceTimes(0.010, 0.0, 0.004, 8)
    slow = simulation.simulate(np.array([0.0, 1.0, 2.0]), times, slowness=lambda now: 3.0 if 1 <= now < 2 else 1.0)
    assert slow.latencies.tolist() == pytest.approx([0.014, 0.042, 0.014])


def test_full_batches_leave_others_waiting() -> None:
    """At most two at once: five that come together need three runs."""
    found = simulation.simulate(np.zeros(5), ServiceTimes(0.01, 0.0, 0.0, 2))
    assert found.batches == 3
    assert sorted(found.latencies.tolist()) == pytest.approx([0.01, 0.01, 0.02, 0.02, 0.03])


def test_a_waiting_time_and_a_full_queue_are_simulated_too() -> None:
    """The queue is the server's own: a window holds the first request back, a bound refuses what does not fit."""
    times = ServiceTimes(0.01, 0.0, 0.0, 8)
    window = simulation.simulate(np.array([0.0, 0.004]), times, QueueLimits(max_batch_size=8, max_queue_delay=0.005))
    assert window.batches == 1
    assert window.latencies == pytest.approx([0.015, 0.011])
    bounded = simulation.simulate(
        np.array([0.0, 0.001, 0.002, 0.003]), times, QueueLimits(max_batch_size=1, max_queue_rows=2)
    )
    assert np.isinf(bounded.latencies).tolist() == [False, False, False, True]


def test_beyond_capacity_nothing_is_promised() -> None:
    """Infinite, not a number that a test would not find again."""
    assert queueing.percentiles(TIMES, TIMES.capacity, [0.5]) == [math.inf]


def test_a_plan_keeps_its_slo_with_as_few_replicas_as_possible() -> None:
    """The share of each replica is within what it can take; with one fewer it would not be."""
    made = plan.make(TIMES, 50_000, slo.parse("p99=5ms"))
    assert made.rate / made.replicas <= made.highest_rate < made.rate / (made.replicas - 1)
    assert made.prediction.simulated["p99"] <= 0.005
    assert made.load < 1
    text = json.dumps(made.to_json())
    assert service_times.from_json(json.loads(text)["service_times"]) == TIMES


def test_an_slo_that_nobody_can_keep_is_said() -> None:
    """More replicas do not make one request faster."""
    with pytest.raises(ConvserveError, match=r"no number of replicas keeps p99=0\.2ms"):
        plan.make(TIMES, 100, slo.parse("p99=200us"))


@pytest.mark.parametrize(
    "text", ["", "1", "1:5", "x:1ms", "1:ms", "1:0ms,64:4ms", "0:1ms", "-1:1ms", "1:1ms,2:nanms", "1:1ms,2:1e999s"]
)
def test_what_is_no_table_is_refused(text: str) -> None:
    """The error shows the form."""
    with pytest.raises(ConfigError, match=r"batch-times: .*1:0\.5ms,64:4ms"):
        service_times.parse_table(text, 0)


@pytest.mark.parametrize("text", ["1:infms", "1:nanms"])
def test_times_that_cannot_be_are_refused(text: str) -> None:
    """They would end in a search without end."""
    with pytest.raises(ConfigError, match=r"batch"):
        service_times.parse_table(text, 0)


@pytest.mark.parametrize("most", ["Infinity", "NaN"])
def test_a_batch_of_any_size_is_refused(most: str) -> None:
    """JSON knows no such numbers; Python's reader does."""
    found = TIMES.to_json() | {"requests_per_batch": float(most)}
    with pytest.raises(ConfigError, match="from: there are no service times"):
        service_times.from_json(found)


@pytest.mark.parametrize("content", ["[]", "3", "{}", '{"service_times": null}', "no JSON"])
def test_what_is_no_plan_is_refused(content: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A sentence, no traceback."""
    (tmp_path / "plan.json").write_text(content)
    assert main(["plan", "--rate", "1", "--slo", "p99=1s", "--from", str(tmp_path / "plan.json")]) == 1
    assert "convserve plan: from: " in capsys.readouterr().err


def test_the_command_plans_from_a_table_and_from_its_own_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same answer both ways; the model and its assumptions are named."""
    flags = ["plan", "--rate", "20000", "--slo", "p99=10ms"]
    assert main([*flags, "--batch-times", "1:0.4ms,64:6.7ms", "--json"]) == 0
    first = json.loads(capsys.readouterr().out)
    (tmp_path / "plan.json").write_text(json.dumps(first))
    assert main([*flags, "--from", str(tmp_path / "plan.json")]) == 0
    shown = capsys.readouterr().out
    assert f"{first['replicas']:,} replica(s) answer 20,000 requests/s within p99=10ms" in shown
    assert "M/D^[1,B]/1" in shown
    assert "requests arrive as a Poisson process" in shown


def test_the_command_wants_one_source(capsys: pytest.CaptureFixture[str]) -> None:
    """Neither none nor two."""
    assert main(["plan", "--rate", "1", "--slo", "p99=1s"]) == 1
    assert "give one of --model (to measure), --batch-times and --from" in capsys.readouterr().err
