"""Measures a server's service times with closed loops.

The model's run: one caller, who sends more and more images at once, up to what the server still runs in one batch;
nothing else runs, and the replies tell how long the model took. The rest: several callers, so that the server is never
idle. Many of them pause between requests, so that these come one by one, as in an open loop; without pauses they come
in bursts, as the answers of a batch leave, and a burst costs a server much less. When it answers X requests per second
in batches of b, a batch costs it b/X seconds, of which run(b) is the model and what is left is RPC work: something for
each batch, which a few callers show, and something for each request. The largest batches that it forms are its full
ones: a server that runs the model between its events keeps them smaller than its limit, so that events do not wait.
What a request takes besides, which costs the server nothing, is what one caller waits beyond both. And what a server is
slower that is not always busy shows when that caller pauses.
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
_FEW_CALLERS = (2, 4)
"""Callers who keep the server busy with batches of one or two: while one waits for his answer, another's runs."""
_CALLERS = (32, 64, 128)
"""Callers who keep the server busy; the most of them are twice what fits into a batch, if that is more."""
_PAUSING = 0.5
"""A caller pauses on average for so many times what a request took without pauses, with as many callers."""
_IDLE_SECONDS = (0.001, 0.004, 0.016)
"""Mean pauses of a lone caller; what an idle server takes longer hardly grows beyond."""
_UNSTEADY = 1.25
"""A machine whose runs of one size differ by more than that is not what a plan assumes."""
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
    """Why the client may have been the bottleneck, if it may, and what is not as steady as a plan assumes."""


def calibrate(options: Options, most_rows: int, seconds: float, progress: Progress) -> Calibration:
    """Measure service times of a server, for requests of `options.mix`, which is one size.

    Args:
        options: target, model and data; native dialect, with explanations.
        most_rows: rows that fit into a batch of the server.
        seconds: of each closed loop; there are about a dozen.
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
    fixed, each = fit({float(size): run for size, run in run_seconds.items()})
    saturated: dict[int, tuple[float, float]] = {}
    stretched: list[float] = []
    rate = _measure(options, _CALLERS[0], seconds / 2, progress).throughput
    for callers in (*_FEW_CALLERS, *_CALLERS[:-1], max(_CALLERS[-1], 2 * most)):
        pause = 0.0 if callers in _FEW_CALLERS else _PAUSING * callers / rate
        run = _measure(options, callers, seconds, progress, pause)
        doubts += [f"{callers} in flight: {text}" for text in run.invalid]
        saturated[callers] = run.throughput, _mean_batch(run, rows)
        stretched.append(_stretch(run, rows, fixed, each))
    doubts += _unsteady(lone, stretched)
    busy = statistics.median(stretched)
    left = {batch: batch / rate - (fixed + each * batch) * busy for rate, batch in saturated.values()}
    for_batch, handling = fit({batch: seconds for batch, seconds in left.items() if seconds > 0} or {1.0: 0.0})
    most = max(min(max(round(batch) for _, batch in saturated.values()), most), 1)
    shares = ((np.arange(_QUANTILES) + 0.5) / _QUANTILES).tolist()
    alone = fixed + each + for_batch + handling
    besides = [max(lone.tally.latencies.percentile(share) - alone, 0.0) for share in shares]
    times = ServiceTimes(fixed * busy + for_batch, each * busy, handling, most, tuple(besides))
    setup: list[tuple[float, float]] = []
    stretch: list[tuple[float, float]] = []
    for idle in _IDLE_SECONDS:
        run = _measure(options, 1, seconds / 2, progress, idle)
        setup.append((idle, max(_beyond_run(run) - _beyond_run(lone), 0.0)))
        stretch.append((min(run.throughput / times.capacity, 1.0), _stretch(run, rows, fixed, each) / busy))
    times = replace(times, setup=tuple(setup), stretch=tuple(sorted(stretch)))
    return Calibration(times, run_seconds, saturated, doubts)


def _unsteady(lone: Run, stretched: list[float]) -> list[str]:
    """What the machine's pauses and changes of speed do to a plan, which takes its runs for always the same."""
    usual, slow = lone.tally.runs.percentile(0.5), lone.tally.runs.percentile(0.99)
    doubts = []
    if slow > _UNSTEADY * usual:
        doubts.append(
            f"one in a hundred runs of the model took {slow * 1e3:.2f} ms or more, {slow / usual:.1f} times the usual;"
            " so high percentiles will be higher than planned"
        )
    if max(stretched) > _UNSTEADY * min(stretched):
        doubts.append(
            f"the machine's speed changed: runs took up to {max(stretched) / min(stretched):.2f} times as long a few"
            " seconds later; so the plan may be as far off"
        )
    return doubts


def _beyond_run(run: Run) -> float:
    """Seconds in the middle case that requests took besides the model's run."""
    return run.tally.queues.percentile(0.5) + run.tally.outsides.percentile(0.5)


def _stretch(run: Run, rows: int, fixed: float, each: float) -> float:
    """How much longer the model's runs took than `fixed + each * n`, by requests of so many rows."""
    told = [(max(batch_rows / rows, 1.0), batch_rows, entry) for batch_rows, entry in run.tally.batch_seconds.items()]
    took = sum(total * rows / batch_rows for _, batch_rows, (_, total) in told)
    return took / sum(count * (fixed + each * size) / size for size, _, (count, _) in told)


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
    if not (run.tally.finished_requests and run.tally.statuses[0]):
        raise ConvserveError(
            f"the server cannot be measured: it answered nothing in {seconds:g} s; --duration is too short"
        )
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
