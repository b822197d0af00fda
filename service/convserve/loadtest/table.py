"""The final tables in the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from convserve.loadtest.histogram import Histogram
from convserve.loadtest.run import PERCENTILES, Run
from convserve.loadtest.slo import name_of
from convserve.loadtest.tally import status_name


def show(console: Console, run: Run) -> None:
    """Print one run."""
    tally = run.tally
    offered = f", offered {run.rate:,.0f}" if run.rate is not None else f", {run.load.callers} in flight"
    console.print(
        f"[bold]{run.scenario.name}[/bold]: {run.throughput:,.1f} requests/s answered{offered};"
        f" {run.images_per_second:,.1f} images/s; {run.seconds:.1f} s measured after {run.load.warmup:g} s of warm-up",
        highlight=False,
    )
    table = Table("milliseconds", "mean", *(name_of(share) for share in PERCENTILES), "longest", box=None)
    for column in table.columns[1:]:
        column.justify = "right"
    latencies = [run.percentile(share) for share in PERCENTILES]
    shown = ["failed" if value is None else f"{value * 1e3:.2f}" for value in latencies]
    mean, longest = f"{tally.latencies.mean * 1e3:.2f}", f"{tally.latencies.maximum * 1e3:.2f}"
    table.add_row("[bold]latency[/bold]", mean, *shown, longest)
    for name, histogram in (
        ("server: in the queue", tally.queues),
        ("server: first row of batch", tally.waits),
        ("server: model run", tally.runs),
        ("network, RPC, client", tally.outsides),
        ("client: sent too late by", tally.lags),
    ):
        if histogram.count:
            table.add_row(name, *_row(histogram))
    console.print(table)
    batches = sum(count for count, _ in tally.batch_seconds.values())
    if batches:
        rows = sum(rows * count for rows, (count, _) in tally.batch_seconds.items()) / batches
        console.print(f"batches: {rows:.1f} rows on average, as a request saw it", highlight=False)
    statuses = ", ".join(f"{status_name(code)} {count:,}" for code, count in sorted(tally.statuses.items()))
    console.print(f"statuses: {statuses or 'none'}", highlight=False)
    for code, text in run.details.items():
        console.print(f"  first {status_name(code)}: {text}", highlight=False, markup=False)
    console.print(_answers(run), highlight=False)
    for number, client in enumerate(run.clients, 1):
        if client.seconds:
            console.print(
                f"client {number}: busy {client.busy_seconds / client.seconds:.0%}, CPU"
                f" {client.cpu_seconds / client.seconds:.0%}, waited for a core"
                f" {client.starved_seconds / client.seconds:.0%} of the time",
                highlight=False,
            )
    _judge(console, run)


def show_sweep(console: Console, runs: Sequence[Run]) -> None:
    """Print several runs, one line each."""
    table = Table("offered/s", "answered/s", "p50 ms", "p90 ms", "p99 ms", "p99.9 ms", "failed", "notes", box=None)
    for column in table.columns[:-1]:
        column.justify = "right"
    for run in sorted(runs, key=lambda one: one.rate or 0):
        times = [run.percentile(share) for share in (0.5, 0.9, 0.99, 0.999)]
        notes = ["INVALID"] if run.invalid else []
        if run.verdicts:
            notes.append("SLO kept" if run.within_slo else "SLO missed")
        shown = ["failed" if value is None else f"{value * 1e3:.2f}" for value in times]
        offered = "-" if run.rate is None else f"{run.rate:,.0f}"
        table.add_row(offered, f"{run.throughput:,.0f}", *shown, str(run.tally.failed), ", ".join(notes))
    console.print(table)


def _row(histogram: Histogram) -> list[str]:
    values = [histogram.mean, *(histogram.percentile(share) for share in PERCENTILES), histogram.maximum]
    return [f"{value * 1e3:.2f}" for value in values]


def _answers(run: Run) -> str:
    check = run.check
    text = "answers: not checked"
    if check.rows or check.other_version:
        text = f"answers: {check.rows:,} compared, {check.wrong:,} wrong"
    if check.other_version:
        text += f", {check.other_version:,} of another version than asked before"
    if run.accuracy is not None:
        text += f"; accuracy {run.accuracy:.4f} of {check.labelled:,} labelled images"
    return text


def _judge(console: Console, run: Run) -> None:
    rules = run.scenario.rules
    if rules is not None:
        if rules.percentile is not None:
            estimate = run.estimate(rules.percentile)
            shown = "too few requests" if estimate is None else f"{estimate * 1e3:.2f} ms"
            console.print(f"MLPerf early-stopping estimate of {name_of(rules.percentile)}: {shown}", highlight=False)
        for text in run.shortfalls:
            console.print(f"not a run by MLPerf's rules: {text}", highlight=False)
    for verdict in run.verdicts:
        mark = "[green]kept[/green]" if verdict.met else "[red]missed[/red]"
        sure = "" if verdict.shown else f"; certain at 99 % only with {verdict.needed:,} requests"
        console.print(
            f"SLO {verdict.slo} {mark}: {verdict.slow:,} of {verdict.requests:,} slower or failed{sure}",
            highlight=False,
        )
    for text in run.failures:
        console.print(f"[red]FAILED[/red]: {escape(text)}", highlight=False)
    for text in run.invalid:
        console.print(f"[yellow]INVALID[/yellow]: {escape(text)}", highlight=False)
