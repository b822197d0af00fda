"""Whether the load tester tells the truth: against h2load, known service times, a known stall, and its own predictions.

Servers run on one core, the load tester and h2load on another. Each part prints what it found, and whether its goal was
reached; all of it goes to benchmarks/results/loadtest-validation.json.

    python -m benchmarks.loadtest_validation --repetitions 3
    python -m benchmarks.loadtest_validation --parts throughput,plan --model mnist
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from benchmarks import common, known_server
from benchmarks.common import Peer
from convserve.loadtest import arrivals, calibration, plan, simulation, workload
from convserve.loadtest.calibration import Calibration
from convserve.loadtest.campaign import Campaign, Options, Progress
from convserve.loadtest.dialects import Native, Wanted
from convserve.loadtest.link import parse_target
from convserve.loadtest.process import Load
from convserve.loadtest.records import Records
from convserve.loadtest.run import Run
from convserve.loadtest.samples import ModelFacts, load
from convserve.loadtest.scenario import SCENARIOS
from convserve.loadtest.service_times import fit
from convserve.loadtest.tally import Tally

CONNECTIONS, STREAMS = 4, 16
LOADS = (0.5, 0.7, 0.85)
THROUGHPUT_GOAL, QUANTILE_GOAL, PLAN_GOAL = 0.10, 0.02, 0.20
STEADY, TRIES = 0.05, 4
"""A run counts when the machine is as fast after it as when its service times were measured; so many are tried."""


def options(port: int, model: str, scenario: str, **changes: Any) -> Options:
    """A load test of single images."""
    given = Options(
        target=parse_target(f"127.0.0.1:{port}", 10.0),
        wanted=Wanted("native", model),
        scenario=SCENARIOS[scenario],
        mix=workload.parse_mix("1"),
        rate=1.0,
        connections=CONNECTIONS,
        warmup=1.0,
    )
    return replace(given, **changes)


class Recording(Progress):
    """Keeps what was noted of every request of a run."""

    def __init__(self) -> None:
        """Nothing yet."""
        self.pieces: list[Records] = []

    def started(self, title: str, load: Load, tally: Tally) -> None:  # noqa: ARG002  # as the other's
        """Listen to what the tally takes in."""
        take = tally.take

        def keep(records: Records) -> None:
            self.pieces.append(records)
            take(records)

        tally.take = keep  # type: ignore[method-assign]


def measure(chosen: Options, progress: Progress | None = None) -> Run:
    """One run."""
    with Campaign(chosen, progress or Progress()) as campaign:
        campaign.prepare()
        return campaign.single()


def real_server() -> Peer:
    """This project's server on one core."""
    command = [sys.executable, "-m", "convserve", "serve", "--port", "0", "--http-port", "0", "--log-level", "error"]
    return Peer("convserve", [*command, "--model-repository", str(common.ROOT / "models")])


def known(*flags: str) -> Peer:
    """The synthetic server."""
    return Peer("known", [sys.executable, "-m", "benchmarks.known_server", *flags])


def throughput(args: argparse.Namespace) -> dict[str, Any]:
    """A closed loop of 64 by both, in turn: the load tester reaches h2load's throughput within 10 %."""
    common.need("h2load", "nghttp2-client")
    found: dict[str, list[float]] = {"h2load": [], "loadtest": [], "ratio": [], "client_busy": [], "client_cpu_us": []}
    shape = (28, 28, 1) if args.model != "cifar10" else (32, 32, 3)
    wanted = Wanted("native", args.model, explain=False)
    message = Native(wanted).request(load("synthetic", "packed", ModelFacts(shape, ()), 1, 1))
    with common.running(real_server()) as server:
        closed = options(server.port, args.model, "closed", in_flight=CONNECTIONS * STREAMS, seconds=args.seconds)
        closed = replace(closed, wanted=wanted, sample_count=1)
        measure(replace(closed, seconds=2.0))  # warms the server up
        for _ in range(args.repetitions):
            run = measure(closed)
            count = max(int(run.throughput * args.seconds), 100)
            other = common.h2load(server.port, Native.path, message, common.Load(CONNECTIONS, STREAMS, count))
            found["loadtest"].append(run.throughput)
            found["h2load"].append(other["requests_per_second"])
            found["ratio"].append(run.throughput / other["requests_per_second"])
            (client,) = run.clients
            found["client_busy"].append(client.busy_seconds / client.seconds)
            found["client_cpu_us"].append(client.cpu_seconds / client.seconds / run.throughput * 1e6)
            print(f"  loadtest {run.throughput:.0f}/s, h2load {other['requests_per_second']:.0f}/s", flush=True)
    ratio = statistics.median(found["ratio"])
    return {
        **{name: common.summary(values) for name, values in found.items()},
        "goal": f"ratio within {THROUGHPUT_GOAL:.0%} of 1",
        "reached": abs(ratio - 1) <= THROUGHPUT_GOAL,
    }


def quantiles(args: argparse.Namespace) -> dict[str, Any]:
    """Latency percentiles are those of the times that the server slept, within 2 %."""
    shares = (0.5, 0.9, 0.99)
    errors: dict[str, list[float]] = {f"p{share * 100:g}": [] for share in shares}
    detail = []
    with common.running(known("--sleep")) as server:
        for seed in range(1, args.repetitions + 1):
            chosen = options(server.port, "known", "server", rate=100.0, seconds=args.seconds * 2, seed=seed)
            run = measure(chosen)
            for share in shares:
                drawn, seen = run.tally.runs.percentile(share), run.tally.latencies.percentile(share)
                errors[f"p{share * 100:g}"].append(seen / drawn - 1)
                detail.append({"share": share, "drawn_seconds": drawn, "measured_seconds": seen})
                print(f"  p{share * 100:g}: drawn {drawn * 1e3:.2f} ms, measured {seen * 1e3:.2f} ms", flush=True)
            if run.invalid:
                print(f"  invalid: {run.invalid}")
    middle = {name: statistics.median(values) for name, values in errors.items()}
    return {
        "distribution": f"log-normal, median {known_server.MEDIAN_SECONDS} s, sigma {known_server.SIGMA}",
        "relative_error": middle,
        "runs": detail,
        "goal": f"every percentile within {QUANTILE_GOAL:.0%}",
        "reached": all(abs(value) <= QUANTILE_GOAL for value in middle.values()),
    }


def stall(args: argparse.Namespace) -> dict[str, Any]:  # noqa: ARG001  # as the other parts
    """A server that stands still for 1 s shows it in p99.9 of an open loop; a closed loop beside it hardly does."""
    found: dict[str, dict[str, float]] = {}
    for name, scenario in (("open loop", "server"), ("closed loop, one caller", "single-stream")):
        with common.running(known("--stall-at", "6", "--stall-seconds", "1")) as server:
            run = measure(options(server.port, "known", scenario, rate=200.0, seconds=20.0, check="none"))
        values = {f"p{share * 100:g}": run.tally.latencies.percentile(share) for share in (0.5, 0.99, 0.999)}
        found[name] = {**values, "longest": run.tally.latencies.maximum, "requests": run.tally.requests}
        print(f"  {name}: " + ", ".join(f"{key} {value:.4g}" for key, value in found[name].items()), flush=True)
    # 200 of 4,000 requests were meant for that second; the slowest 0.1 % of all waited at least 0.98 s
    return {
        "seconds": found,
        "goal": "p99.9 of the open loop is 0.9 s or more, and p99 0.7 s or more",
        "reached": found["open loop"]["p99.9"] >= 0.9 and found["open loop"]["p99"] >= 0.7,
    }


def predictions(args: argparse.Namespace) -> dict[str, Any]:
    """Predicted p99 within 20 % of the measured one at 50, 70 and 85 % of capacity, on this project's server."""
    with common.running(real_server()) as server:
        closed = options(server.port, args.model, "closed", seconds=args.seconds)
        measure(replace(closed, seconds=2.0))
        return compare(closed, args.max_batch_size, args.seconds, args.repetitions)


def known_batches(args: argparse.Namespace) -> dict[str, Any]:
    """The same on a server whose batch times are known: the server's own batcher around a model that sleeps."""
    with common.running(known("--batched")) as server:
        closed = options(server.port, "known", "closed")
        found = compare(closed, known_server.BATCH_MOST, args.seconds * 2, args.repetitions)
    truth = {"fixed_seconds": known_server.BATCH_FIXED, "seconds_per_request": known_server.BATCH_EACH}
    return {"truth": truth, **found}


def compare(closed: Options, most_rows: int, seconds: float, repetitions: int) -> dict[str, Any]:
    """Calibrate, predict, measure, at each load.

    No prediction holds for a machine that has become faster or slower since. So the throughput of a closed loop is
    measured after the calibration and after each run; if it changed, that run is put aside, and both are done again.
    """
    rows: dict[float, list[dict[str, float]]] = {share: [] for share in LOADS}
    calibrations: list[dict[str, Any]] = []
    disturbed: list[dict[str, float]] = []

    def calibrate() -> tuple[Calibration, float]:
        measured = calibration.calibrate(closed, most_rows, min(seconds / 2, 4.0), Progress())
        times = measured.times
        middle = times.besides[len(times.besides) // 2]
        calibrations.append({**times.to_json(), "besides_seconds": middle, "doubts": measured.doubts})
        idle = times.at(0.0).run(1) / times.run(1)
        print(
            f"  batch {times.fixed * 1e3:.3f} + n * {times.each * 1e3:.3f} ms, handling {times.handling * 1e3:.3f} ms,"
            f" besides {middle * 1e3:.2f} ms, capacity {times.capacity:.0f}/s;"
            f" idle: times {idle:.2f}, {times.setup_after(1.0) * 1e3:.2f} ms{'; in doubt' if measured.doubts else ''}",
            flush=True,
        )
        return measured, pace()

    def pace() -> float:
        return measure(replace(closed, in_flight=CONNECTIONS * STREAMS, seconds=2.0)).throughput

    for repetition in range(repetitions):
        measured, steady = calibrate()
        for share in LOADS:
            for left in reversed(range(TRIES)):
                row = predict_and_measure(closed, measured, share, seconds, seed=repetition)
                change = pace() / steady - 1
                counts = abs(change) <= STEADY or not left
                note = "" if counts else f", put aside ({change:+.0%})"
                shown = ", ".join(f"{name} {value * 1e3:.2f}" for name, value in row.items())
                print(f"  {share:.0%}, p99 in ms: {shown}{note}", flush=True)
                if counts:
                    rows[share].append({**row, "change_of_speed": change})
                    break
                disturbed.append({**row, "load": share, "change_of_speed": change})
                measured, steady = calibrate()

    def error(name: str) -> dict[str, float]:
        return {
            f"{share:.0%}": statistics.median(row[name] / row["measured"] - 1 for row in found)
            for share, found in rows.items()
        }

    return {
        "calibrations": calibrations,
        "p99_seconds": {f"{share:.0%}": found for share, found in rows.items()},
        "put_aside": disturbed,
        "simulated_p99_relative_error": error("simulated"),
        "replayed_p99_relative_error": error("replayed"),
        "predicted_p99_relative_error": error("predicted"),
        "model_p99_relative_error": error("model"),
        "goal": f"simulated p99 within {PLAN_GOAL:.0%} at every load",
        "reached": all(abs(value) <= PLAN_GOAL for value in error("simulated").values()),
    }


def predict_and_measure(
    closed: Options, measured: Calibration, share: float, seconds: float, *, seed: int
) -> dict[str, float]:
    """Latencies in seconds at a share of the capacity, as predicted and as measured.

    `simulated` had the arrivals of the run: over some thousand requests, luck alone moves a p99 by a fifth. `replayed`
    had also the speed of the machine during the run, batch by batch, as the server told it: what it misses is the
    simulation's fault, and what `simulated` misses beyond that is the machine's, which was not as fast as before.
    `predicted` is what a plan says, of 50,000 other arrivals.
    """
    times = measured.times
    rate = share * times.capacity
    predicted = plan.predict(times, rate)
    recording = Recording()
    run = measure(replace(closed, scenario=SCENARIOS["server"], rate=rate, seconds=seconds, seed=seed), recording)
    assert run.load.profile is not None
    came = arrivals.poisson(run.load.profile, run.load.seed)
    times = times.at(rate)

    def simulated(**changes: Any) -> list[float]:
        latencies = simulation.simulate(came, times, seed=seed, **changes).latencies[came >= run.load.warmup]
        p50, p99 = np.quantile(latencies, [0.5, 0.99], method="inverted_cdf")
        return [float(p50), float(p99)]

    p50, p99 = simulated()
    fixed, each = fit({float(size): seconds for size, seconds in measured.run_seconds.items()})
    stretch = times.each / each
    as_it_was = slowness(np.concatenate(recording.pieces), fixed * stretch, each * stretch)
    replayed_p50, replayed_p99 = simulated(slowness=as_it_was)
    return {
        "measured": run.percentile(0.99) or float("inf"),
        "simulated": p99,
        "replayed": replayed_p99,
        "predicted": predicted.simulated["p99"],
        "model": predicted.model["p99"],
        "measured_p50": run.percentile(0.5) or float("inf"),
        "simulated_p50": p50,
        "replayed_p50": replayed_p50,
    }


def slowness(records: Records, fixed: float, each: float) -> Callable[[float], float]:
    """How many times as long as `fixed + each * n` the model's runs took, by when the next one began, in seconds."""
    records = records[(records["code"] == 0) & (records["batch"] > 0)]
    _, first = np.unique(records[["run", "batch"]], return_index=True)  # requests of a batch are told the same
    batches = records[first]
    starts = batches["done"] - batches["run"]
    order = np.argsort(starts)
    moments = np.asarray(starts[order], np.float64)
    factors = np.asarray((batches["run"] / (fixed + each * batches["batch"]))[order], np.float64).tolist()
    return lambda now: factors[min(int(np.searchsorted(moments, now)), len(factors) - 1)]


PARTS: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    "throughput": throughput,
    "quantiles": quantiles,
    "stall": stall,
    "known-batches": known_batches,
    "plan": predictions,
}


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=3, help="of each part but `stall` (default: 3)")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each run (default: 10)")
    parser.add_argument("--model", default="mnist", help="bundled model (default: mnist)")
    parser.add_argument("--max-batch-size", type=int, default=64, help="the server's (default: 64)")
    parser.add_argument("--parts", default=",".join(PARTS), help=f"some of {', '.join(PARTS)} (default: all)")
    args = parser.parse_args()
    before = common.conditions()
    os.sched_setaffinity(0, {common.CLIENT_CORE})  # client processes inherit it; servers are pinned elsewhere
    path = common.RESULTS / "loadtest-validation.json"
    result: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {"what": _first_line()}
    reached: list[bool] = []
    for name in args.parts.split(","):
        print(f"{name}: {_first_line(PARTS[name])}", flush=True)
        found = PARTS[name](args)
        result[name] = {"conditions": {**before, "model": args.model, "seconds": args.seconds}, **_finite(found)}
        reached.append(found["reached"])
        print(f"  goal: {found['goal']}: {'reached' if found['reached'] else 'NOT REACHED'}", flush=True)
        common.write_result("loadtest-validation", result)
    sys.exit(0 if all(reached) else 1)


def _first_line(of: object = None) -> str:
    text = (of.__doc__ if of is not None else __doc__) or ""
    return text.splitlines()[0]


def _finite(value: Any) -> Any:
    """The same without what JSON cannot hold."""
    if isinstance(value, dict):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_finite(entry) for entry in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value


if __name__ == "__main__":
    main()
