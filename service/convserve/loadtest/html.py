"""The report: one HTML file that needs nothing else."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

from convserve.errors import ConfigError
from convserve.loadtest import plots
from convserve.loadtest.campaign import Campaign
from convserve.loadtest.run import PERCENTILES, Run
from convserve.loadtest.search import Found
from convserve.loadtest.slo import name_of
from convserve.loadtest.tally import status_name

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #111827; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; margin-bottom: 0; } h2 { font-size: 1.1rem; margin-top: 2rem; }
.lead { font-size: 1.15rem; } .good { color: #047857; } .bad { color: #b91c1c; font-weight: 600; }
table { border-collapse: collapse; margin: .5rem 0; } td, th { padding: .15rem .9rem .15rem 0; text-align: right; }
td:first-child, th:first-child { text-align: left; } th { border-bottom: 1px solid #d1d5db; font-weight: 600; }
.scroll { overflow-x: auto; } svg { max-width: 100%; height: auto; } summary { cursor: pointer; }
pre { font-size: 12px; background: #f3f4f6; padding: 1rem; overflow-x: auto; }
"""


def write(path: Path, campaign: Campaign, found: Found | None, problems: Sequence[str]) -> None:
    """Write the report; a file name that ends in `.svg` gets its pictures alone.

    Raises:
        ConfigError: there is nothing to report, or the file cannot be written.
    """
    if not campaign.runs:
        raise ConfigError("report: there was no run")
    best = [run for run in campaign.runs if found is not None and run.rate == found.rate]
    run = (best or campaign.runs)[-1]
    picture = plots.draw(run, campaign.runs)
    text = picture if path.suffix == ".svg" else _page(campaign, run, found, problems, picture)
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"report: {path} cannot be written ({error.strerror})") from error


def _page(campaign: Campaign, run: Run, found: Found | None, problems: Sequence[str], picture: str) -> str:
    conditions = campaign.conditions()
    title = f"Load test of {conditions['model']} at {conditions['target']}"
    parts = [
        f"<!doctype html><html lang='en'><head><meta charset='utf-8'><title>{escape(title)}</title>",
        f"<meta name='viewport' content='width=device-width'><style>{_STYLE}</style></head><body>",
        f"<h1>{escape(title)}</h1><p>{escape(conditions['date'])}</p>",
        f"<p class='lead'>{_headline(run, found)}</p>",
        *(f"<p class='bad'>{escape(text)}</p>" for text in problems),
        *(
            f"<p class='bad'>This run is invalid: {escape(text)}</p>"
            for text in run.invalid
            if text not in str(problems)
        ),
    ]
    if run.tally.failed and not run.verdicts:
        parts.append(f"<p class='bad'>{run.tally.failed:,} of {run.tally.requests:,} requests failed.</p>")
    elif not problems and not run.invalid:
        parts.append("<p class='good'>Answers were right, promises kept, and the client was not the bottleneck.</p>")
    parts += [
        f"<div class='scroll'>{picture}</div>",
        "<h2>Latency, milliseconds</h2>",
        _latencies(run),
        "<h2>Outcomes</h2>",
        _table(("status", "requests", "first text"), _outcomes(run)),
        _table(("answers", ""), _answers(run)),
    ]
    if len(campaign.runs) > 1:
        parts += ["<h2>All runs</h2>", _runs(campaign.runs)]
    if run.scenario.rules is not None:
        parts += ["<h2>MLPerf</h2>", _mlperf(run)]
    parts += [
        "<h2>The client</h2>",
        _table(("process", "busy", "CPU", "waited for a core"), _clients(run)),
        "<h2>Conditions</h2>",
        _table(("", ""), ((name, _plain(value)) for name, value in conditions.items())),
        "<details><summary>All figures of this run, as JSON (times in seconds)</summary>",
        f"<pre>{escape(json.dumps(run.to_json(), indent=1))}</pre></details></body></html>",
    ]
    return "\n".join(parts)


def _headline(run: Run, found: Found | None) -> str:
    if found is not None and found.rate:
        slos = escape(",".join(map(str, run.goals.slos)))
        doubt = (
            " Rates above it failed in invalid runs only: the server may be able to do more." if found.in_doubt else ""
        )
        return f"<b>{found.rate:,.0f} requests/s</b> is the highest rate found that keeps {slos}.{doubt}"
    offered = f"{run.rate:,.0f} requests/s offered" if run.rate is not None else f"{run.load.callers} in flight"
    p99 = run.percentile(0.99)
    tail = "p99 falls on failed requests" if p99 is None else f"p99 {p99 * 1e3:.2f} ms"
    return (
        f"<b>{run.throughput:,.0f} requests/s</b> answered ({run.images_per_second:,.0f} images/s), {offered},"
        f" scenario {escape(run.scenario.name)}; {tail}."
    )


def _latencies(run: Run) -> str:
    rows = [["latency, from the intended start", *(_ms(run.percentile(share)) for share in PERCENTILES)]]
    tally = run.tally
    for name, histogram in (
        ("server: in the queue", tally.queues),
        ("server: the batch's first row waited", tally.waits),
        ("server: model run", tally.runs),
        ("outside: network, RPC, client", tally.outsides),
        ("client: sent later than intended", tally.lags),
    ):
        if histogram.count:
            rows.append([name, *(_ms(histogram.percentile(share)) for share in PERCENTILES)])
    return _table(("", *(name_of(share) for share in PERCENTILES)), rows)


def _outcomes(run: Run) -> Iterable[Sequence[str]]:
    for code, count in sorted(run.tally.statuses.items()):
        yield status_name(code), f"{count:,}", run.details.get(code, "")


def _answers(run: Run) -> Iterable[Sequence[str]]:
    yield "compared", f"{run.check.rows:,}"
    yield "wrong", f"{run.check.wrong:,}"
    yield "answered by another version than asked before", f"{run.check.other_version:,}"
    if run.accuracy is not None:
        yield "accuracy on labelled images", f"{run.accuracy:.4f}"


def _runs(runs: Sequence[Run]) -> str:
    rows = [
        [
            "-" if run.rate is None else f"{run.rate:,.0f}",
            f"{run.throughput:,.0f}",
            *(_ms(run.percentile(share)) for share in (0.5, 0.9, 0.99, 0.999)),
            f"{run.tally.failed:,}",
            "invalid" if run.invalid else "",
            ("kept" if run.within_slo else "missed") if run.verdicts else "",
        ]
        for run in runs
    ]
    return _table(("offered/s", "answered/s", "p50", "p90", "p99", "p99.9", "failed", "client", "SLO"), rows)


def _mlperf(run: Run) -> str:
    rules = run.scenario.rules
    if rules is None:
        return ""
    text = f"<p>Metric of {escape(run.scenario.name)}: {escape(rules.metric)}."
    if rules.percentile is not None:
        estimate = run.estimate(rules.percentile)
        shown = "too few requests for one" if estimate is None else f"{estimate * 1e3:.2f} ms"
        text += f" Early-stopping estimate of {name_of(rules.percentile)} at 99 %: {shown}."
    missing = "; ".join(run.shortfalls)
    return text + (f" By MLPerf's rules this run does not count: {escape(missing)}.</p>" if missing else "</p>")


def _clients(run: Run) -> Iterable[Sequence[str]]:
    for number, client in enumerate(run.clients, 1):
        if client.seconds > 0:
            shares = (client.busy_seconds, client.cpu_seconds, client.starved_seconds)
            yield str(number), *(f"{share / client.seconds:.0%}" for share in shares)


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(cell)}</th>" for cell in header)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<div class='scroll'><table><tr>{head}</tr>{body}</table></div>"


def _plain(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {entry}" for name, entry in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _ms(seconds: float | None) -> str:
    return "failed" if seconds is None else f"{seconds * 1e3:.2f}"
