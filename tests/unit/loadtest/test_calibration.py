"""Service times are read from what servers tell, whole batches or pieces."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from convserve.loadtest import calibration, workload
from convserve.loadtest.campaign import Options, Progress
from convserve.loadtest.dialects import Wanted
from convserve.loadtest.link import parse_target
from convserve.loadtest.scenario import SCENARIOS

FIXED, EACH, HANDLING, BESIDES = 0.4e-3, 0.3e-3, 0.1e-3, 0.2e-3


class Server:
    """Tells, without a network, what a server that forms batches of up to `most` rows would show a load tester."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.callers: list[int] = []

    def measure(self, options: Options, callers: int, seconds: float, progress: Progress, pause: float = 0.0) -> Any:
        """One closed loop; requests that come in bursts cost less."""
        self.callers.append(callers)
        rows = options.mix.sizes[0]
        ran = min(callers * rows, self.most)
        run = FIXED + EACH * ran
        pieces = max(rows / ran, 1)  # of a request
        together = max(ran / rows, 1)  # requests in a batch
        rate = 1 / (pieces * run / together + (HANDLING if pause else HANDLING / 2))
        latencies = SimpleNamespace(percentile=lambda share: pieces * run + HANDLING + BESIDES * (0.5 + share))
        tally = SimpleNamespace(batch_seconds={ran: [100, 100 * run]}, latencies=latencies)
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
    assert (times.fixed, times.each, times.handling) == pytest.approx((FIXED, EACH, HANDLING))
    assert times.most == 64
    assert times.besides[0] == pytest.approx(BESIDES / 2, rel=0.01)
    assert sorted(found.run_seconds) == [1, 2, 4, 8, 16, 32, 64]


@pytest.mark.parametrize("most", [5, 12])
def test_a_server_that_keeps_batches_small(monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    """Pieces of large requests are no batches of that size, and a full batch is what it forms when it is busy."""
    found, _ = calibrated(monkeypatch, most=most)
    times = found.times
    assert (times.fixed, times.each, times.handling) == pytest.approx((FIXED, EACH, HANDLING))
    assert times.most == most
    assert max(found.run_seconds) <= most
    assert times.capacity == pytest.approx(most / (FIXED + EACH * most + HANDLING * most))


def test_requests_that_are_always_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """A request of more rows than a batch takes the time of all its pieces, one after the other."""
    found, _ = calibrated(monkeypatch, most=8, rows=32)
    times = found.times
    assert times.most == 1
    assert times.run(1) == pytest.approx(4 * (FIXED + 8 * EACH))
    assert times.capacity == pytest.approx(1 / (4 * (FIXED + 8 * EACH) + HANDLING))


def test_enough_callers_for_the_largest_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two full batches are in flight, so that the server never waits for requests."""
    found, server = calibrated(monkeypatch, most=256, limit=256)
    assert found.times.most == 256
    assert max(server.callers) == 512
