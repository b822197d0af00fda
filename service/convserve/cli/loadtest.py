"""`convserve loadtest`: how fast is a server, and are its answers right?"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from convserve.cli import common
from convserve.errors import ConvserveError, RuntimeNotInstalledError

if TYPE_CHECKING:
    from convserve.loadtest.campaign import Campaign, Options
    from convserve.loadtest.search import Found

_SCENARIOS = ("server", "single-stream", "multi-stream", "offline", "constant", "closed", "ramp", "spike")

_DESCRIPTION = """\
Load a server and tell how it did. Latency runs from the moment a request was meant to start, so that a server that
stalls cannot hide it; the first seconds are not counted; answers are compared while the load lasts; and a run whose
client was the bottleneck is marked invalid. Exit status 1 when an answer was wrong, an SLO or the accuracy was missed,
or the run was invalid.
"""


def add_parser(subparsers: argparse._SubParsersAction[Any]) -> None:
    """Add the command."""
    parser = subparsers.add_parser(
        "loadtest",
        help="load a server: latency, throughput, answers checked, SLO search",
        description=_DESCRIPTION,
        epilog="With --slo and --rate the rate is tested, with --slo alone the highest rate that keeps it is searched.",
    )
    parser.add_argument("--model", required=True, metavar="NAME", help="the model, such as mnist")
    parser.add_argument(
        "--version", metavar="VERSION", default="", help="number or alias (default: the server's choice)"
    )
    parser.add_argument("--dialect", choices=("native", "oip"), default="native", help="API to call (default: native)")
    common.add_connection(parser)

    load = parser.add_argument_group("load")
    load.add_argument(
        "--scenario",
        choices=_SCENARIOS,
        default="server",
        help="server: Poisson arrivals; single-stream, multi-stream, offline: MLPerf's; constant: even arrivals;"
        " closed: --in-flight at all times; ramp: up to --rate; spike: thrice --rate in the middle (default: server)",
    )
    load.add_argument("--rate", metavar="N", type=_positive, help="requests per second, for open loops")
    load.add_argument("--sweep", metavar="N,N,…", default="", help="one run at each of these rates")
    load.add_argument(
        "--slo", metavar="pN=TIME", default="", help="bound of latency, such as p99=20ms or p50=5ms,p99=20ms"
    )
    load.add_argument(
        "--in-flight", metavar="N", type=_count, default=64, help="callers of a closed loop (default: 64)"
    )
    load.add_argument("--duration", metavar="SECONDS", type=common.positive_seconds, default=30.0, help="(default: 30)")
    load.add_argument("--warmup", metavar="SECONDS", type=_seconds, default=2.0, help="not counted (default: 2)")
    load.add_argument("--connections", metavar="N", type=_count, default=4, help="in all (default: 4)")
    load.add_argument("--processes", metavar="N", type=_count, default=1, help="client processes (default: 1)")
    load.add_argument(
        "--seed", metavar="N", type=_seed, default=1, help="of arrivals, orders, batch sizes and noise (default: 1)"
    )

    payload = parser.add_argument_group("payload and answers")
    payload.add_argument(
        "--data",
        metavar="PATH",
        default="synthetic",
        help="folder with a folder of images for each class, or .npz with images and labels (default: synthetic noise)",
    )
    payload.add_argument(
        "--form", choices=("packed", "encoded"), default="packed", help="send pixels or image files (default: packed)"
    )
    payload.add_argument("--samples", metavar="N", type=_count, default=256, help="different images (default: 256)")
    payload.add_argument(
        "--batch", metavar="N", help="images in a request, or a mix as SIZE:WEIGHT,… (default: 1; 64 for offline)"
    )
    payload.add_argument(
        "--check",
        choices=("golden", "labels", "none"),
        default="golden",
        help="compare answers with those to the same images asked one by one before, or with labels (default: golden)",
    )
    payload.add_argument(
        "--min-accuracy", metavar="SHARE", type=_share, default=0.0, help="least share of right classes, 0 to 1"
    )
    payload.add_argument(
        "--no-explain",
        action="store_true",
        help="do not ask how batches ran: cheaper for the server, no split of times",
    )

    output = parser.add_argument_group("output")
    output.add_argument("--json", action="store_true", help="print one JSON object, times in seconds")
    output.add_argument("--report", metavar="FILE", help="write a self-contained HTML report; *.svg: only its pictures")
    common.add_credentials(parser)


def run(args: argparse.Namespace) -> int:
    """Run the load test. Returns the exit status."""
    try:
        from rich.console import Console

        from convserve.loadtest.campaign import Campaign
        from convserve.loadtest.progress import LiveProgress
    except ModuleNotFoundError as error:
        raise RuntimeNotInstalledError(
            f"{error.name} is not installed; install the load tester with: pip install 'convserve[loadtest]'"
        ) from error
    options = _options(args)
    found: Found | None = None
    stopped: KeyboardInterrupt | ConvserveError | None = None
    with LiveProgress(Console(stderr=True)) as progress, Campaign(options, progress) as campaign:
        campaign.prepare()
        try:
            if options.sweep:
                campaign.sweep(options.sweep)
            elif options.searches:
                found = campaign.search()
            else:
                campaign.single()
        except (KeyboardInterrupt, ConvserveError) as error:
            if not campaign.runs:
                raise
            stopped = error  # what the runs before have shown is told
    problems = _problems(campaign, found)
    if stopped is not None:
        problems.append(f"ended after {len(campaign.runs)} run(s): {str(stopped) or 'interrupted'}")
    if args.json:
        print(json.dumps(_json(campaign, found, problems)))
    else:
        _show(Console(highlight=False, width=None if sys.stdout.isatty() else 160), campaign, found)
    for problem in problems:
        print(f"convserve loadtest: {problem}", file=sys.stderr)
    if args.report:  # last: what was measured is told even if the file cannot be written
        from convserve.loadtest.html import write

        write(Path(args.report), campaign, found, problems)
    if isinstance(stopped, KeyboardInterrupt):
        return common.INTERRUPTED
    return 1 if problems else 0


def _options(args: argparse.Namespace) -> Options:
    from convserve.errors import ConfigError
    from convserve.loadtest import slo
    from convserve.loadtest.campaign import Options, mix_of
    from convserve.loadtest.dialects import Wanted
    from convserve.loadtest.run import Goals
    from convserve.loadtest.scenario import SCENARIOS

    try:
        sweep = tuple(_positive(part) for part in args.sweep.split(",") if part)
    except (ValueError, argparse.ArgumentTypeError) as error:
        raise ConfigError(f"sweep: {args.sweep!r} came; wanted are rates such as 500,1000,2000") from error
    scenario = SCENARIOS[args.scenario]
    if args.rate is not None and not scenario.open_loop:
        raise ConfigError(f"rate: {args.rate:g} came; in {scenario.name} the answers decide when requests go")
    if args.rate is not None and sweep:
        raise ConfigError(f"rate: {args.rate:g} came with --sweep, which has rates of its own; give one of them")
    return Options(
        target=common.loaded(args),
        wanted=Wanted(args.dialect, args.model, args.version, not args.no_explain),
        scenario=scenario,
        mix=mix_of(scenario, args.batch),
        data=args.data,
        form=args.form,
        sample_count=args.samples,
        check=args.check,
        rate=args.rate,
        in_flight=args.in_flight,
        warmup=args.warmup,
        seconds=args.duration,
        connections=args.connections,
        processes=args.processes,
        seed=args.seed,
        sweep=sweep,
        goals=Goals(slo.parse(args.slo) if args.slo else (), args.min_accuracy),
    )


def _problems(campaign: Campaign, found: Found | None) -> list[str]:
    """Why the exit status is 1.

    In a search and a sweep, missing the SLO at some rate is the point, not a failure; in a search, getting no answer at
    some rate too, and it tells by itself where invalid runs leave it in doubt.
    """
    problems = []
    sweeps, searches = bool(campaign.options.sweep), campaign.options.searches
    excused = ("SLO", "none of") if searches else ("SLO",) if sweeps else ()
    for run in campaign.runs:
        at = f"at {run.rate:,.0f} requests/s: " if (searches or sweeps) and run.rate is not None else ""
        problems += [at + text for text in run.failures if not text.startswith(excused)]
        if not searches:
            problems += [f"invalid: {at}{text}" for text in run.invalid]
    if found is not None and found.in_doubt:
        problems.append(
            "invalid: higher rates failed in invalid runs only; the server may be able to do more than found"
        )
    if found is not None and not found.rate:
        problems.append(
            f"no rate kept the SLO, down to {campaign.lowest_rate:,.1f} requests/s; below that, --duration is too short"
        )
    return problems


def _json(campaign: Campaign, found: Found | None, problems: list[str]) -> dict[str, Any]:
    return {
        "conditions": campaign.conditions(),
        "highest_rate": None if found is None else found.rate,
        "in_doubt": None if found is None else found.in_doubt,
        "tries": None if found is None else [{"rate": rate, "passed": passed} for rate, passed in found.tries],
        "runs": [run.to_json() for run in campaign.runs],
        "problems": problems,
    }


def _show(console: Any, campaign: Campaign, found: Found | None) -> None:
    from convserve.loadtest import table

    if len(campaign.runs) > 1:
        table.show_sweep(console, campaign.runs)
    if found is not None and found.rate:
        slos = ",".join(map(str, campaign.options.goals.slos))
        console.print(f"[bold]highest rate that keeps {slos}: {found.rate:,.0f} requests/s[/bold]")
        if found.in_doubt:
            console.print(
                "rates above it failed in invalid runs only: the server may be able to do more than this client"
            )
    if campaign.runs:
        best = [run for run in campaign.runs if found is not None and run.rate == found.rate]
        table.show(console, (best or campaign.runs)[-1])


def _positive(text: str) -> float:
    number = float(text)
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} came; it must be above 0")
    return number


def _seconds(text: str) -> float:
    number = float(text)
    if not 0 <= number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} came; it must be 0 or more seconds")
    return number


def _seed(text: str) -> int:
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError(f"{text} came; it must be 0 or more")
    return number


def _share(text: str) -> float:
    number = float(text)
    if not 0 <= number <= 1:
        raise argparse.ArgumentTypeError(f"{text} came; it must be 0 to 1")
    return number


def _count(text: str) -> int:
    number = int(text)
    if not 1 <= number <= 100_000:
        raise argparse.ArgumentTypeError(f"{text} came; it must be 1 to 100,000")
    return number
