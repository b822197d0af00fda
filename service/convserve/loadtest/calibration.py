"""Measures a server's service times with closed loops.

The model's run: one caller, who sends more and more images at once, up to what the server still runs in one batch;
nothing else runs, and the replies tell how long the model took. The rest: many callers, so that the server is never
idle. They pause between requests, so that these come one by one, as in an open loop; without pauses they come in
bursts, as the answers of a batch leave, and a burst costs a server much less. When it answers X requests per second in
batches of b, every request costs it 1/X seconds, of which run(b)/b is the model and what is left is RPC work. The
batches that it forms then are its full ones: a server that runs the model between its events keeps them smaller than
its limit, so that events do not wait. And what a request takes besides, which costs the server nothing, is what one
caller waits beyond both.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass, replace

import numpy as np

from convserve.errors import ConvserveError
from convserve.loadtest.campaign import Campaign, Options, Progress, load_of
from convserve.loadtest.run import Run
from convserve.loadtest.service_times import ServiceTimes, fit
from convserve.loadtest.workload import Mix

_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
"""Images in a batch of which the model's run is timed, as far as the server's batches go."""
_CALLERS = (32, 64, 128)
"""Callers who keep the server busy; the most of them are twice what fits into a batch, if that is more."""
_PAUSING = 0.5
"""A caller pauses on average for so many times what a request took without pauses, with as many callers."""
_WARMUP_SECONDS = 0.5
_QUANTILES = 200


@dataclass(frozen=True)
class Calibration:
    """What was measured."""

    times: ServiceTimes
    run_seconds: dict[int, float]
    """Seconds of the model's run by requests in a batch."""
    saturated: dict[int, tuple[float, float]]
    """By callers: answered requests per second, and mean requests in a batch."""
    doubts: list[str]
    """Why the client may have been the bottleneck, if it may."""


def calibrate(options: Options, most_rows: int, seconds: float, progress: Progress) -> Calibration:
    """Measure service times of a server, for requests of `options.mix`, which is one size.

    Args:
        options: target, model and data; native dialect, with explanations.
        most_rows: rows that fit into a batch of the server.
        seconds: of each closed loop; there are about ten.
        progress: is told.

    Raises:
        ConvserveError: requests failed, or replies do not tell how their batches ran.
    """
    rows = options.mix.sizes[0]
    most = max(most_rows // rows, 1)
    doubts: list[str] = []
    run_seconds: dict[int, float] = {}
    lone: Run | None = None
    for size in (size for size in _SIZES if size <= most):
        run = _measure(replace(options, mix=Mix((size * rows,), (1.0,))), 1, seconds / 2, progress)
        whole = size * rows
        cut = max(run.tally.batch_seconds) < whole
        if cut and lone is not None:
            break
        run_seconds[size] = _mean_run(run, whole)
        lone = lone or run
        if cut:
            break
    if lone is None:
        raise ConvserveError("the server forms no batches")
    saturated: dict[int, tuple[float, float]] = {}
    rate = _measure(options, _CALLERS[0], seconds / 2, progress).throughput
    for callers in (*_CALLERS[:-1], max(_CALLERS[-1], 2 * most)):
        pause = _PAUSING * callers / rate
        run = _measure(options, callers, seconds, progress, pause)
        doubts += [f"{callers} in flight: {text}" for text in run.invalid]
        saturated[callers] = run.throughput, _mean_batch(run, rows)
    fixed, each = fit({float(size): run for size, run in run_seconds.items()})
    handling = statistics.median(1 / rate - (fixed + each * batch) / batch for rate, batch in saturated.values())
    most = max(min(max(round(batch) for _, batch in saturated.values()), most), 1)
    times = ServiceTimes(fixed, each, max(handling, 0.0), most)
    shares = ((np.arange(_QUANTILES) + 0.5) / _QUANTILES).tolist()
    besides = [max(lone.tally.latencies.percentile(share) - times.batch(1), 0.0) for share in shares]
    return Calibration(replace(times, besides=tuple(besides)), run_seconds, saturated, doubts)


def _measure(options: Options, callers: int, seconds: float, progress: Progress, pause: float = 0.0) -> Run:
    """One closed loop."""
    options = replace(options, warmup=_WARMUP_SECONDS, seconds=seconds, in_flight=callers, check="none")
    if callers == 1:
        options = replace(options, processes=1, connections=1)
    with Campaign(options, progress) as campaign:
        campaign.prepare()
        load = replace(load_of(options, None), pause=pause)
        run = campaign.measure(load, None, f"{callers} in flight, {options.mix} image(s) each")
    if run.tally.failed:
        raise ConvserveError(f"the server cannot be measured: {'; '.join([*run.details.values(), *run.failures])}")
    if not run.tally.batch_seconds or 0 in run.tally.batch_seconds:
        raise ConvserveError("the server cannot be measured: its replies do not tell how their batches ran")
    return run


def _mean_run(run: Run, rows: int) -> float:
    """Mean seconds that the model took for a request of so many rows; one that was cut ran in equal pieces."""
    told = run.tally.batch_seconds
    seconds = sum(total * rows / min(batch_rows, rows) for batch_rows, (_, total) in told.items())
    return seconds / sum(count for count, _ in told.values())


def _mean_batch(run: Run, rows: int) -> float:
    """Mean requests in a batch, counted by batch and not by request."""
    told = run.tally.batch_seconds
    batches = sum(count * rows / batch_rows for batch_rows, (count, _) in told.items())
    return sum(count for count, _ in told.values()) / batches
