"""Service times are read from what servers tell, whole batches or pieces."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from convserve.errors import ConvserveError
from convserve.loadtest import calibration, workload
from convserve.loadtest.campaign import Campaign, Options, Progress
from convserve.loadtest.dialects import Wanted
from convserve.loadtest.link import parse_target
from convserve.loadtest.process import Load
from convserve.loadtest.run import Goals, Run
from convserve.loadtest.scenario import SCENARIOS
from convserve.loadtest.tally import Tally

FIXED, EACH, FOR_BATCH, HANDLING, BESIDES = 0.4e-3, 0.3e-3, 0.15e-3, 0.1e-3, 0.2e-3
SETUP = {0.001: 0.1e-3, 0.004: 0.3e-3, 0.016: 0.5e-3}
SLOWER = {0.001: 1.1, 0.004: 1.2, 0.016: 1.3}
"""By mean pause of a lone caller."""
BUSY = 1.05
"""What runs take longer than a lone caller's while many ask."""


class Percentiles:
    """Those of a uniform distribution."""

    def __init__(self, least: float, width: float) -> None:
        self.least, self.width = least, width

    def percentile(self, share: float) -> float:
        return self.least + self.width * (0.5 + share)


class Server:
    """Tells, without a network, what a server that forms batches of up to `most` rows would show a load tester."""

    def __init__(self, most: int, hiccup: float = 1.0, slower: float = 1.0) -> None:
        self.most = most
        self.hiccup = hiccup
        """What one run in a hundred takes, as a multiple of the usual."""
        self.slower = slower
        """The same of runs while 32 callers ask."""
        self.callers: list[int] = []

    def measure(self, options: Options, callers: int, seconds: float, progress: Progress, pause: float = 0.0) -> Any:
        """One closed loop; requests that come in bursts cost less."""
        self.callers.append(callers)
        rows = options.mix.sizes[0]
        ran = min(callers * rows, self.most)
        resting = pause if callers == 1 else 0.0
        run = (FIXED + EACH * ran) * (BUSY if callers > 1 else SLOWER.get(resting, 1.0))
        run *= self.slower if callers == 32 else 1.0
        pieces = max(rows / ran, 1)  # of a request
        together = max(ran / rows, 1)  # requests in a batch
        burst = callers > 4 and not pause
        rate = 1 / ((pieces * run + FOR_BATCH) / together + (HANDLING / 2 if burst else HANDLING))
        lone = FOR_BATCH + HANDLING + SETUP.get(resting, 0.0)
        spread = (self.hiccup - 1) * run / 0.49
        tally = SimpleNamespace(
            batch_seconds={ran: [100, 100 * run]},
            runs=Percentiles(run - spread, spread),
            latencies=Percentiles(pieces * run + lone, BESIDES),
            queues=Percentiles(lone / 4, 0.0),
            outsides=Percentiles(lone * 3 / 4, BESIDES),
        )
        if callers == 1 and pause:
            rate = 1 / (pieces * run + lone + pause)
        return SimpleNamespace(tally=tally, throughput=rate, invalid=[])


def calibrated(
    monkeypatch: pytest.MonkeyPatch, most: int, limit: int = 64, rows: int = 1
) -> tuple[calibration.Calibration, Server]:
    server = Server(most)
    monkeypatch.setattr(calibration, "_measure", server.measure)
    options = Options(
        target=parse_target("h:1", 1.0),
        wanted=Wanted("native", "m"),
        scenario=SCENARIOS["closed"],
        mix=workload.parse_mix(str(rows)),
    )
    return calibration.calibrate(options, limit, 1.0, Progress()), server


def test_batches_up_to_the_limit_of_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that fills its batches is found as it is."""
    found, _ = calibrated(monkeypatch, most=64)
    times = found.times
    assert (times.fixed, times.each, times.handling) == pytest.approx((FIXED * BUSY + FOR_BATCH, EACH * BUSY, HANDLING))
    assert times.most == 64
    assert times.besides[0] == pytest.approx(BESIDES / 2, rel=0.01)
    assert sorted(found.run_seconds) == [1, 2, 4, 8, 16, 32, 64]
    assert [extra for _, extra in times.setup] == pytest.approx([SETUP[idle] for idle, _ in times.setup])
    loads = [load for load, _ in times.stretch]
    assert 0 < loads[0] < loads[1] < loads[2] < 1
    assert [factor for _, factor in times.stretch] == pytest.approx([1.3 / BUSY, 1.2 / BUSY, 1.1 / BUSY])


@pytest.mark.parametrize("most", [5, 12])
def test_a_server_that_keeps_batches_small(monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    """Pieces of large requests are no batches of that size, and a full batch is what it forms when it is busy."""
    found, _ = calibrated(monkeypatch, most=most)
    times = found.times
    assert (times.fixed, times.each, times.handling) == pytest.approx((FIXED * BUSY + FOR_BATCH, EACH * BUSY, HANDLING))
    assert times.most == most
    assert max(found.run_seconds) <= most
    assert times.capacity == pytest.approx(most / ((FIXED + EACH * most) * BUSY + FOR_BATCH + HANDLING * most))


def test_requests_that_are_always_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """A request of more rows than a batch takes the time of all its pieces, one after the other."""
    found, _ = calibrated(monkeypatch, most=8, rows=32)
    times = found.times
    assert times.most == 1
    assert times.run(1) == pytest.approx(4 * (FIXED + 8 * EACH) * BUSY)
    assert times.capacity == pytest.approx(1 / (4 * (FIXED + 8 * EACH) * BUSY + FOR_BATCH + HANDLING))


def test_an_unsteady_machine_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    """A plan takes runs for always the same; where they are not, it says so."""
    assert doubts(monkeypatch, Server(8)) == []
    (pauses,) = doubts(monkeypatch, Server(8, hiccup=1.5))
    assert pauses.startswith("one in a hundred runs of the model took 1.05 ms or more, 1.5 times the usual")
    (changes,) = doubts(monkeypatch, Server(8, slower=1.4))
    assert "runs took up to 1.40 times as long a few seconds later" in changes


def doubts(monkeypatch: pytest.MonkeyPatch, server: Server) -> list[str]:
    monkeypatch.setattr(calibration, "_measure", server.measure)
    options = Options(parse_target("h:1", 1.0), Wanted("native", "m"), SCENARIOS["closed"], workload.parse_mix("1"))
    return calibration.calibrate(options, 64, 1.0, Progress()).doubts


def test_enough_callers_for_the_largest_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two full batches are in flight, so that the server never waits for requests."""
    found, server = calibrated(monkeypatch, most=256, limit=256)
    assert found.times.most == 256
    assert max(server.callers) == 512


def test_a_measurement_too_short_for_an_answer_is_called_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server is not to blame, and no rate is 0."""
    load = Load(warmup=0.5, seconds=0.001, connections=1, callers=1)
    run = Run(SCENARIOS["closed"], load, None, Tally(0.5, 0.001), [], Goals())
    monkeypatch.setattr(Campaign, "prepare", lambda self: None)
    monkeypatch.setattr(Campaign, "measure", lambda *_: run)
    options = Options(parse_target("h:1", 1.0), Wanted("native", "m"), SCENARIOS["closed"], workload.parse_mix("1"))
    with pytest.raises(ConvserveError, match=r"it answered nothing in 0\.001 s; --duration is too short"):
        calibration.calibrate(options, 64, 0.002, Progress())
