"""Judging a run: what failed it, what makes it invalid, what MLPerf would say."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from convserve.loadtest import arrivals, slo
from convserve.loadtest.process import Load
from convserve.loadtest.records import RECORD, ClientStats
from convserve.loadtest.run import Goals, Run
from convserve.loadtest.scenario import SCENARIOS
from convserve.loadtest.tally import Tally
from convserve.loadtest.workload import Check

QUIET = ClientStats(seconds=10, cpu_seconds=2, busy_seconds=2, starved_seconds=0.1)


def tally_of(latencies: Sequence[float], failed: int = 0, lag: float = 0.0, warmup: float = 1.0) -> Tally:
    tally = Tally(warmup, 10.0)
    count = len(latencies) + failed
    records = np.zeros(count, RECORD)
    records["intended"] = warmup + np.linspace(0, 9, count)
    records["sent"] = records["intended"] + lag
    records["done"] = records["intended"] + [*latencies, *[0.0] * failed]
    records["code"][len(latencies) :] = 8
    records["rows"] = 2
    tally.take(records)
    return tally


def run_of(tally: Tally, clients: Sequence[ClientStats] = (QUIET,), scene: str = "server", **goals: object) -> Run:
    load = Load(1.0, 10.0, 4, profile=arrivals.constant(100, 11))
    return Run(SCENARIOS[scene], load, 100.0, tally, clients, Goals(**goals))  # type: ignore[arg-type]


def test_a_good_run_has_no_complaints() -> None:
    """Promises kept, answers right, client idle."""
    run = run_of(tally_of([0.005] * 1000), slos=slo.parse("p99=20ms"))
    assert (run.failures, run.invalid, run.within_slo) == ([], [], True)
    assert run.throughput == 100
    assert run.images_per_second == 200


def test_failed_requests_are_the_slowest() -> None:
    """With 2 % failed there is no p99, and p90 is among the answered."""
    run = run_of(tally_of([0.005] * 980, failed=20), slos=slo.parse("p99=20ms"))
    assert run.percentile(0.99) is None
    assert run.percentile(0.9) == pytest.approx(0.005, rel=1e-3)
    assert "20 of 1000 requests were slower or failed" in run.failures[0]
    assert not run.within_slo


def test_wrong_answers_fail_a_run() -> None:
    """However fast they were."""
    client = replace(QUIET, check=Check(rows=1000, wrong=1, first_wrong="class 3 came"))
    run = run_of(tally_of([0.001] * 1000), [client])
    assert "1 of 1000 answers were wrong; first: class 3 came" in run.failures[0]
    assert not run.within_slo


def test_too_little_accuracy_fails_a_run() -> None:
    """Where a least one is asked for."""
    client = replace(QUIET, check=Check(labelled=100, right=90))
    assert run_of(tally_of([0.001] * 100), [client]).failures == []
    assert "accuracy was 0.9000" in run_of(tally_of([0.001] * 100), [client], min_accuracy=0.95).failures[0]


def test_a_run_without_answers_has_failed() -> None:
    """Whether or not anything was promised; the commonest status is told with its text."""
    client = replace(QUIET, details={8: "the queue is full", 14: "gone"})
    (failure,) = run_of(tally_of([], failed=100), [client]).failures
    assert failure == "none of 100 requests was answered; RESOURCE_EXHAUSTED: the queue is full"


def test_an_accuracy_that_nobody_knows_is_not_enough() -> None:
    """Requests that failed, or that another version answered, show nothing."""
    (failure,) = run_of(tally_of([0.001] * 100), min_accuracy=0.95).failures
    assert failure == "accuracy is not known: no labelled image was answered; at least 0.9500 is wanted"


def test_a_run_without_requests_fails() -> None:
    """Nothing measured is no success."""
    assert "no request was counted" in run_of(Tally(1, 10)).failures[0]


@pytest.mark.parametrize(
    ("client", "lag", "words"),
    [
        (replace(QUIET, busy_seconds=9), 0, "busy 90%"),
        (replace(QUIET, starved_seconds=3), 0, "waited for a core 30%"),
        (QUIET, 0.002, "left up to 2.00 ms late"),
    ],
)
def test_a_client_that_was_the_bottleneck_makes_a_run_invalid(client: ClientStats, lag: float, words: str) -> None:
    """Busy, without a core, or late."""
    run = run_of(tally_of([0.005] * 1000, lag=lag), [QUIET, client])
    assert len(run.invalid) == 1
    assert words in run.invalid[0]


def test_full_connections_are_named_as_the_cause() -> None:
    """Where the server's limit of calls on a connection held requests back, more of them help, not more processes."""
    run = run_of(tally_of([0.005] * 1000, lag=0.002), [replace(QUIET, held_back=3)])
    assert "use more --connections" in run.invalid[0]


def test_a_server_that_falls_behind_does_not_sustain_the_rate() -> None:
    """However generous the SLO: when the run ends, a quarter of its requests still waits."""
    assert run_of(tally_of([0.005] * 1000)).sustained
    late = [0.005] * 500 + np.linspace(0, 5, 500).tolist()
    assert not run_of(tally_of(late)).sustained


def test_lag_is_no_matter_in_a_closed_loop() -> None:
    """There the client's delay is part of the caller."""
    assert run_of(tally_of([0.005] * 1000, lag=0.002), scene="closed").invalid == []


def test_mlperf_is_not_claimed_lightly() -> None:
    """Ten seconds are no MLPerf run; a scenario that MLPerf does not know has no rules to break."""
    assert "600 s are the least" in run_of(tally_of([0.005] * 1000)).shortfalls[0]
    assert run_of(tally_of([0.005] * 1000), scene="constant").shortfalls == []


def test_the_estimate_is_loadgens() -> None:
    """Of 1,000 latencies the 997th for p99: LoadGen discards three; failed requests count as slow."""
    latencies = np.arange(1, 1001) / 1e4
    assert run_of(tally_of(latencies.tolist())).estimate(0.99) == pytest.approx(0.0998, rel=2e-3)
    assert run_of(tally_of([0.005] * 990, failed=10)).estimate(0.99) is None


def test_json_holds_everything_and_is_json() -> None:
    """Percentiles, statuses, seconds, client; no NaN, which JSON does not have."""
    found = json.loads(json.dumps(run_of(tally_of([0.005] * 99, failed=1)).to_json(), allow_nan=False))
    assert found["statuses"] == {"OK": 99, "RESOURCE_EXHAUSTED": 1}
    assert len(found["by_second"]) == 10
    assert found["latency_seconds"]["p50"] == pytest.approx(0.005, rel=1e-3)
