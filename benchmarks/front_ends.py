"""Would one process that executes for several front ends make more of a GPU than a session in each? A simulation.

No GPU is needed: `device_simulation` plays both through, for batch times of several kinds of network and device, and
the rule below says what would be reason enough to build it. The decision record
(docs/adr/0012-a-session-in-each-worker.md) tells what came out.

    python -m benchmarks.front_ends
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from benchmarks import common
from benchmarks.device_simulation import Costs, Device, one_executor, own_sessions, poisson

P99_SECONDS = 0.02
"""Within which 99 of 100 requests are answered."""
ENOUGH = 1.25
"""How many times as many requests the executor has to answer to be worth building."""
FRONT_ENDS = (1, 2, 4, 8, 16)
REALISTIC = 8
"""Cores beside one GPU up to which the rule looks: what a GPU node gives each of its GPUs, more or less."""
LOADS = (0.25, 0.5, 0.75, 0.9)
"""Of what the front ends' cores could handle."""
SECONDS, FEWEST = 1.0, 20_000
"""Simulated, and requests that are simulated at least; the first sixth is not counted."""


@dataclass(frozen=True)
class Case:
    """What is simulated."""

    device: Device
    costs: Costs
    source: str
    """Where the batch times come from."""


_COSTS = Costs(handling=150e-6, row=10e-6, message=20e-6, hop=50e-6)
_ASSUMED = "assumed"
_INOUE = "Y. Inoue's fit (Performance Evaluation 147, 2021) to NVIDIA's table for ResNet-50; recalled, not read again"
_SMALL = Case(Device(0.4e-3, 4e-6, switch=0.1e-3, drive=0.2e-3), _COSTS, _ASSUMED)
CASES = {
    "small network": _SMALL,
    "small, half the fixed time": replace(_SMALL, device=replace(_SMALL.device, fixed=0.2e-3, drive=0.1e-3)),
    "small, twice the fixed time": replace(_SMALL, device=replace(_SMALL.device, fixed=0.8e-3, drive=0.4e-3)),
    "small, changing over is free": replace(_SMALL, device=replace(_SMALL.device, switch=0.0)),
    "small, changing over takes 0.5 ms": replace(_SMALL, device=replace(_SMALL.device, switch=0.5e-3)),
    "small, handling 120 µs": replace(_SMALL, costs=replace(_COSTS, handling=120e-6)),
    "small, handling 190 µs": replace(_SMALL, costs=replace(_COSTS, handling=190e-6)),
    "small, handing over costs a third": replace(_SMALL, costs=replace(_COSTS, row=3e-6, message=7e-6)),
    "small, handing over costs three times": replace(_SMALL, costs=replace(_COSTS, row=30e-6, message=60e-6)),
    "medium network": Case(Device(1e-3, 20e-6, switch=0.1e-3, drive=0.2e-3), _COSTS, _ASSUMED),
    "ResNet-50, V100": Case(Device(1.8874e-3, 0.1438e-3, switch=0.1e-3, drive=0.5e-3), _COSTS, _INOUE),
}


def own(front_ends: int) -> tuple[Callable[..., Any], int]:
    """A session in each: the simulation and its front ends."""
    return own_sessions, front_ends


def pooled(front_ends: int) -> tuple[Callable[..., Any], int]:
    """One process more, which executes for all."""
    return one_executor, front_ends


def latencies(design: tuple[Callable[..., Any], int], case: Case, rate: float) -> tuple[float, float]:
    """p50 and p99 in seconds of Poisson arrivals at a rate; infinite when what waits grows without end."""
    simulate, front_ends = design
    seconds = max(SECONDS, FEWEST / rate)
    arrivals = poisson(rate, seconds, front_ends, seed=front_ends)
    found = simulate(arrivals, front_ends, case.device, case.costs)
    counted = found[len(found) // 6 :]
    last = max(at + latency for (at, _), latency in zip(arrivals, found.tolist(), strict=True))
    if last - seconds > 0.05 * seconds:  # what was left when the last had come took long to work off
        return math.inf, math.inf
    p50, p99 = np.quantile(counted, [0.5, 0.99]).tolist()
    return p50, p99


def highest_rate(design: tuple[Callable[..., Any], int], case: Case) -> float:
    """Requests per second up to which p99 is kept, to 1 %; 0: not even at a few."""
    low, high = 0.0, design[1] / case.costs.handling
    while high - low > 0.01 * high:
        rate = (low + high) / 2
        if latencies(design, case, rate)[1] <= P99_SECONDS:
            low = rate
        else:
            high = rate
    return float(round(low))


def study(case: Case, number: int) -> dict[str, Any]:
    """One number of front ends, or of cores."""
    rates = {
        "own_sessions": highest_rate(own(number), case),
        "one_executor_besides": highest_rate(pooled(number), case),
    }
    if number > 1:
        rates["one_executor_among"] = highest_rate(pooled(number - 1), case)
    points = {}
    for load in LOADS:
        rate = load * number / case.costs.handling
        points[str(load)] = {
            "requests_per_second": round(rate),
            **{
                name: [None if math.isinf(one) else round(one, 6) for one in latencies(design, case, rate)]
                for name, design in (("own_sessions", own(number)), ("one_executor_besides", pooled(number)))
            },
        }
    return {"highest_rates": rates, "p50_and_p99_seconds_by_load": points}


def verdict(cases: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Where the executor would be worth building by the rule.

    Each design has as many cores, one of which is the executor's, and runs the best number of front ends that it has
    room for: nobody has to use all.
    """
    gains: dict[str, dict[str, float]] = {}
    for name, case in cases.items():
        best = {"own_sessions": 0.0, "one_executor_among": 0.0}
        gains[name] = {}
        for number, found in case["front_ends"].items():
            best = {design: max(rate, found["highest_rates"].get(design, 0.0)) for design, rate in best.items()}
            gains[name][number] = round(best["one_executor_among"] / best["own_sessions"], 3)
    worth = [
        f"{name}, {number} cores"
        for name, by_number in gains.items()
        for number, gain in by_number.items()
        if gain >= ENOUGH and int(number) <= REALISTIC
    ]
    return {"gain_by_cores": gains, "enough": ENOUGH, "looked_at_up_to": REALISTIC, "worth_it": worth}


def main() -> None:
    """Simulate, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=1, help="simulations at the same time (default: 1)")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES), help="which (default: all)")
    args = parser.parse_args()
    cases: dict[str, dict[str, Any]] = {}
    with ProcessPoolExecutor(args.processes) as pool:
        for name in args.cases:
            case = CASES[name]
            found = pool.map(partial(study, case), FRONT_ENDS)
            cases[name] = {**asdict(case), "front_ends": dict(zip(map(str, FRONT_ENDS), found, strict=True))}
            rates = {number: one["highest_rates"] for number, one in cases[name]["front_ends"].items()}
            print(name, json.dumps(rates), file=sys.stderr, flush=True)
    result = {
        "what": "Highest rate at p99, and latency at several loads, of a session in each worker and of one executor",
        "p99_seconds": P99_SECONDS,
        "simulated": "Poisson arrivals, each at a front end by chance; the seed is the number of front ends",
        "cases": cases,
        "verdict": verdict(cases),
    }
    print(json.dumps(result["verdict"], indent=2))
    print(common.write_result("front-ends", result).relative_to(common.ROOT))


if __name__ == "__main__":
    main()
