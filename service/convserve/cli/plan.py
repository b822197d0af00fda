"""`convserve plan`: how many replicas does a rate need?"""

from __future__ import annotations

import argparse
import json
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from convserve.cli import common
from convserve.errors import ConfigError, RuntimeNotInstalledError

if TYPE_CHECKING:
    from convserve.loadtest.plan import Plan
    from convserve.loadtest.service_times import ServiceTimes

_DESCRIPTION = """\
Tell how many replicas (on a GPU server: GPUs) a rate needs within an SLO. Batch times come from a running server, which
is loaded for some seconds at several concurrencies; or from a table; or from the JSON of an earlier plan. A queueing
model gives the answer, and a simulation around the server's own queue checks it.
"""


def add_parser(subparsers: argparse._SubParsersAction[Any]) -> None:
    """Add the command."""
    parser = subparsers.add_parser("plan", help="tell how many replicas a rate needs", description=_DESCRIPTION)
    parser.add_argument("--rate", metavar="N", type=_positive, required=True, help="requests per second in all")
    parser.add_argument("--slo", metavar="pN=TIME", required=True, help="bound of latency, such as p99=20ms")
    source = parser.add_argument_group("batch times", "by default measured on the server at --target")
    source.add_argument("--model", metavar="NAME", help="the model to measure, such as mnist")
    source.add_argument("--batch", metavar="N", type=int, default=1, help="images in a request (default: 1)")
    source.add_argument(
        "--duration", metavar="SECONDS", type=common.positive_seconds, default=4.0, help="of each step (default: 4)"
    )
    source.add_argument(
        "--batch-times", metavar="N:TIME,…", help="time by requests in a batch, all work included: 1:0.5ms,64:4ms"
    )
    source.add_argument("--from", dest="file", metavar="FILE", help="JSON of an earlier plan")
    parser.add_argument("--json", action="store_true", help="print one JSON object, times in seconds")
    common.add_connection(parser)
    common.add_credentials(parser)


def run(args: argparse.Namespace) -> int:
    """Plan. Returns the exit status."""
    if [bool(args.model), bool(args.batch_times), bool(args.file)].count(True) != 1:
        raise ConfigError("batch times: give one of --model (to measure), --batch-times and --from")
    try:
        from convserve.loadtest import plan, service_times, slo
    except ModuleNotFoundError as error:
        raise RuntimeNotInstalledError(
            f"{error.name} is not installed; install the load tester with: pip install 'convserve[loadtest]'"
        ) from error
    slos = slo.parse(args.slo)
    conditions: dict[str, Any] = {}
    if args.batch_times:
        times = service_times.parse_table(args.batch_times, 0)
    elif args.file:
        try:
            times = service_times.from_json(json.loads(Path(args.file).read_text())["service_times"])
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise ConfigError(f"from: {args.file} cannot be read as the JSON of a plan ({error})") from error
    else:
        times, conditions = _measure(args)
    made = plan.make(times, args.rate, slos)
    if args.json:
        print(json.dumps({**made.to_json(), "conditions": conditions}))
    else:
        _show(made)
    return 0


def _measure(args: argparse.Namespace) -> tuple[ServiceTimes, dict[str, Any]]:
    from rich.console import Console

    from convserve.loadtest import calibration, workload
    from convserve.loadtest.campaign import Campaign, Options
    from convserve.loadtest.dialects import Wanted
    from convserve.loadtest.progress import LiveProgress
    from convserve.loadtest.scenario import SCENARIOS

    with common.connect(args) as client:
        model = client.model(args.model)
    found = next((one for one in model.versions if one.version == model.default_version), None)
    if found is None or not found.max_batch_size:
        raise ConfigError(f"model: {args.model} has no available version")
    options = Options(
        target=common.loaded(args),
        wanted=Wanted("native", args.model),
        scenario=SCENARIOS["closed"],
        mix=workload.parse_mix(str(args.batch)),
    )
    with LiveProgress(Console(stderr=True)) as progress:
        measured = calibration.calibrate(options, found.max_batch_size, args.duration, progress)
    for text in measured.doubts:
        print(f"convserve plan: doubtful: {text}", file=sys.stderr)
    conditions = {
        **Campaign(options, progress).conditions(),
        "provider": found.provider,
        "max_batch_size": found.max_batch_size,
        "run_seconds": measured.run_seconds,
        "saturated": measured.saturated,
        "doubts": measured.doubts,
    }
    return measured.times, conditions


def _show(made: Plan) -> None:
    from convserve.loadtest.queueing import ASSUMPTIONS

    times, predicted = made.times, made.prediction
    print(
        f"{made.replicas:,} replica(s) answer {made.rate:,.0f} requests/s within {', '.join(map(str, made.slos))};"
        f" each needs a GPU where the measured server had one"
    )
    print(
        f"each takes {predicted.rate:,.0f} requests/s, {made.load:.0%} of its capacity of {times.capacity:,.0f}/s;"
        f" within the SLO it could take {made.highest_rate:,.0f}/s"
    )
    header = ("PREDICTED LATENCY", *predicted.model)
    rows = [
        (name, *(f"{value * 1e3:.2f} ms" for value in found.values()))
        for name, found in (("queueing model", predicted.model), ("simulation", predicted.simulated))
    ]
    print(common.table(header, rows))
    print(
        f"batch of n: {times.fixed * 1e3:.3f} ms + n * {times.each * 1e3:.3f} ms, at most {times.most} requests; RPC"
        f" work: {times.handling * 1e3:.3f} ms a request; besides:"
        f" {times.besides[len(times.besides) // 2] * 1e3:.2f} ms"
    )
    idle = times.at(0.0)
    print(
        f"of an idle server: batch of 1: {idle.run(1) * 1e3:.3f} ms instead of {times.run(1) * 1e3:.3f} ms, and up to"
        f" {times.setup_after(math.inf) * 1e3:.2f} ms to wake up"
    )
    print("model: M/D^[1,B]/1 with dynamic batching and setup. It assumes that")
    for text in ASSUMPTIONS:
        print(f"  - {text}")
    print("Add what you want to lose: a replica for each that may fail, be drained or be replaced at peak.")


def _positive(text: str) -> float:
    number = float(text)
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} came; it must be above 0")
    return number
