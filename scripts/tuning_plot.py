"""Draw what batching settings do, from benchmarks/results: python -m scripts.tuning_plot (before scripts.reference)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from scripts.reference import ROOT, result_file

matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "convserve"})  # small, and the same each time


def draw(result: dict[str, Any], target: Path) -> None:
    """p99 latency against images per second; a line for each choice, a point for each number of requests in flight."""
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    for name, points in result["choices"].items():
        rates = [one["requests_per_second"]["median"] for one in points.values()]
        seconds = [one["p99_seconds"]["median"] * 1e3 for one in points.values()]
        axes.plot(rates, seconds, marker="o", markersize=3, linewidth=1, label=name)
        axes.annotate(list(points)[-1], (rates[-1], seconds[-1]), fontsize=7)
    axes.set_yscale("log")
    axes.set_xlabel("images per second")
    axes.set_ylabel("p99 latency in ms")
    axes.set_title(f"{result['model']['name']} on {result['device']}: 1 to 256 requests in flight")
    axes.grid(visible=True, alpha=0.3)
    axes.legend(fontsize=7)
    figure.savefig(target, metadata={"Date": None})


if __name__ == "__main__":
    for device in ("cpu", "cuda"):
        if result_file(device).exists():
            draw(json.loads(result_file(device).read_text()), ROOT / f"docs/images/tuning-{device}.svg")
