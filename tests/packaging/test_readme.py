"""The README's table of what is proved says what results, manifests, rules and the dashboard say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from convserve import manifest
from support import expressions

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "README.md").read_text()


def result(name: str) -> Any:
    return json.loads((ROOT / f"benchmarks/results/{name}.json").read_text())


def test_figures_of_the_bundled_models() -> None:
    """Accuracy, parity and size."""
    differences = []
    for name in ("mnist", "cifar10"):
        content, _ = manifest.read(max((ROOT / "models" / name).glob("[0-9]*"), key=lambda path: int(path.name)))
        assert f"`{name}` {content.metrics['accuracy'] * 100:.2f} %" in TEXT
        assert f"`{name}` ({content.training.parameters:,} parameters)" in TEXT
        differences += [form.max_abs_diff_probabilities for form in content.parity.values()]
    assert f"largest difference {max(differences):.1e}" in TEXT


def test_figures_of_int8() -> None:
    """Speed with one image, and accuracy lost, as the manifests have them."""
    for name in ("cifar10", "mnist"):
        content, _ = manifest.read(max((ROOT / "models" / name).glob("[0-9]*"), key=lambda path: int(path.name)))
        trial = content.trials["int8"]
        faster, lost = f"`{name}` {trial.speedup['1']:.1f} times", f"for {trial.test_loss_points:.2f}"
        assert faster in TEXT
        assert lost in TEXT[TEXT.index(faster) :][:60]


def test_figures_of_measurements() -> None:
    """After a measurement the README has to follow."""
    soak, drain, overload = result("soak"), result("drain"), result("overload")["servers"]
    calls = sum(drain[workers]["calls_answered"] for workers in ("workers_1", "workers_2"))
    runs = sum(drain[workers]["runs"] for workers in ("workers_1", "workers_2"))
    unbounded = overload["unbounded queue"]["goodput_of_capacity"]["2.0"]["median"]
    for words in (
        f"p99 of `cifar10` is {result('fairness')['p99_ratio']['median']:.1f} times",
        f"still {overload['convserve']['goodput_at_2x_of_best']:.0%}".replace("%", " %"),
        f"with an unbounded queue, {unbounded:.0%}".replace("%", " %"),
        f"0 of {calls:,} calls lost in {runs} runs",
        f"{soak['minutes']} minutes of load, {soak['swaps']} version swaps, {soak['workers_killed']} workers killed",
        f"0 lost, 0 wrong of {soak['outcomes']['answered']:,}",
    ):
        assert words in TEXT, words
    assert soak["lost"] == {}


def test_figures_of_what_watches() -> None:
    """Alerts, recording rules, panels."""
    panels = [panel for panel in expressions.panels() if panel["type"] != "row"]
    counts = (
        f"{len(expressions.alerts())} alerts, {len(expressions.recordings())} recording rules, {len(panels)} panels"
    )
    assert counts in TEXT
