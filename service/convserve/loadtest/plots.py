"""The pictures of a report, as one SVG: latency over time, percentiles, throughput and latency, outcomes."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from convserve.loadtest.run import Run
from convserve.loadtest.slo import Slo, name_of
from convserve.loadtest.tally import status_name

_BLUE, _ORANGE, _RED, _GREEN, _GREY = "#2563eb", "#d97706", "#dc2626", "#059669", "#6b7280"
_ERRORS = (_RED, _ORANGE, "#7c3aed", "#be185d", "#854d0e", _GREY)
_STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "convserve",
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
}


def draw(run: Run, runs: Sequence[Run]) -> str:
    """An SVG element: one run in detail, and all runs by rate if there are several."""
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(11, 7.2), layout="constrained")
        (time, curve), (rates, outcomes) = figure.subplots(2, 2)
        _over_time(time, run)
        _percentiles(curve, run)
        swept = [one for one in runs if one.rate is not None and one.percentile(0.5) is not None]
        if len(swept) > 1:
            _by_rate(rates, swept)
        else:
            _parts(rates, run)
        _outcomes(outcomes, run)
        file = io.StringIO()
        figure.savefig(file, format="svg", metadata={"Date": None})
    text = file.getvalue()
    return text[text.index("<svg") :]


def _over_time(axes: Axes, run: Run) -> None:
    seconds = sorted(second for second, entry in run.tally.seconds.items() if entry.latencies.count)
    axes.set_title("Latency by the second a request was meant to start", loc="left")
    for share, colour in ((0.5, _GREEN), (0.9, _BLUE), (0.99, _ORANGE), (1.0, _RED)):
        values = [run.tally.seconds[second].latencies.percentile(share) * 1e3 for second in seconds]
        label = "longest" if share == 1 else name_of(share)
        axes.plot(seconds, values, color=colour, label=label, linewidth=1.3, marker=".", markersize=3)
    _bounds(axes, run.goals.slos)
    axes.set_yscale("log")
    _log(axes.yaxis)
    axes.set_xlabel("second of the measured time")
    axes.set_ylabel("milliseconds")
    _legend(axes)


def _percentiles(axes: Axes, run: Run) -> None:
    axes.set_title("Latency by percentile", loc="left")
    good, failed = run.tally.latencies.count, run.tally.failed
    points = [(share * good / (good + failed), seconds * 1e3) for share, seconds in run.tally.latencies.curve()]
    if points:
        most = 1 - 0.5 / (good + failed)
        axes.plot([1 / (1 - min(share, most)) for share, _ in points], [value for _, value in points], color=_BLUE)
    axes.set_xscale("log")
    axes.set_yscale("log")
    _log(axes.yaxis)
    ticks = [share for share in (0.5, 0.9, 0.99, 0.999, 0.9999, 0.99999) if 1 / (1 - share) <= 2 * (good + failed)]
    axes.set_xticks([1 / (1 - share) for share in ticks], [name_of(share) for share in ticks])
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.xaxis.minorticks_off()
    for one in run.goals.slos:
        axes.plot(1 / (1 - one.percentile), one.seconds * 1e3, "x", color=_RED, markersize=9, label=f"SLO {one}")
    if run.goals.slos:
        _legend(axes)
    axes.set_xlabel("share of all requests, failed ones counted as slowest")
    axes.set_ylabel("milliseconds")


def _by_rate(axes: Axes, runs: Sequence[Run]) -> None:
    axes.set_title("Latency by throughput", loc="left")
    ordered = sorted(runs, key=lambda one: one.rate or 0)
    for share, colour in ((0.5, _GREEN), (0.9, _BLUE), (0.99, _ORANGE)):
        pairs = [(one.throughput, one.percentile(share)) for one in ordered]
        known = [(rate, value * 1e3) for rate, value in pairs if value is not None]
        axes.plot([x for x, _ in known], [y for _, y in known], "o-", color=colour, label=name_of(share), markersize=3)
    _bounds(axes, runs[0].goals.slos)
    axes.set_yscale("log")
    _log(axes.yaxis)
    axes.set_xlabel("answered requests per second")
    axes.set_ylabel("milliseconds")
    _legend(axes)


def _parts(axes: Axes, run: Run) -> None:
    tally = run.tally
    axes.set_title("Where the time goes", loc="left")
    parts = (("queue", tally.queues, _ORANGE), ("model", tally.runs, _BLUE), ("outside", tally.outsides, _GREY))
    if not tally.runs.count:
        axes.text(0.5, 0.5, "the replies did not tell", ha="center", transform=axes.transAxes)
        return
    shares = (0.5, 0.9, 0.99)
    width = 0.26
    for number, (name, histogram, colour) in enumerate(parts):
        values = [histogram.percentile(share) * 1e3 for share in shares]
        axes.bar([place + (number - 1) * width for place in range(3)], values, width, color=colour, label=name)
    axes.set_xticks(range(3), [name_of(share) for share in shares])
    axes.set_yscale("log")
    _log(axes.yaxis)
    axes.set_xlabel("percentile of each part by itself")
    axes.set_ylabel("milliseconds")
    _legend(axes)


def _outcomes(axes: Axes, run: Run) -> None:
    seconds = sorted(run.tally.seconds)
    axes.set_title("Requests by status", loc="left")
    codes = sorted({code for entry in run.tally.seconds.values() for code in entry.statuses})
    bottom = [0] * len(seconds)
    errors = 0
    for code in codes:
        counts = [run.tally.seconds[second].statuses[code] for second in seconds]
        colour = _GREEN if code == 0 else _ERRORS[errors % len(_ERRORS)]
        errors += code != 0
        axes.bar(seconds, counts, 0.9, bottom=bottom, color=colour, label=f"{status_name(code)} {sum(counts):,}")
        bottom = [low + count for low, count in zip(bottom, counts, strict=True)]
    axes.set_xlabel("second of the measured time")
    axes.set_ylabel("requests")
    _legend(axes)


def _legend(axes: Axes) -> None:
    """Below the picture: inside, it would hide what lies in its corner, and all of them matter."""
    if axes.get_legend_handles_labels()[0]:  # else there was nothing to draw
        axes.legend(loc="upper left", bbox_to_anchor=(0, -0.14), ncols=5, fontsize=7, frameon=False, borderaxespad=0)


def _log(axis: Axis) -> None:
    """A logarithmic axis with plain numbers."""
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def _bounds(axes: Axes, slos: Sequence[Slo]) -> None:
    for one in slos:
        axes.axhline(one.seconds * 1e3, color=_RED, linestyle=":", linewidth=1, label=f"SLO {one}")
