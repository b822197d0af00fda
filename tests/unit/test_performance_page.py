"""docs/performance.md says what the result files say."""

from __future__ import annotations

from typing import Any

import pytest

from scripts import performance


def test_the_page_follows_from_the_results() -> None:
    """After a measurement: python -m scripts.performance."""
    text = performance.PAGE.read_text()
    assert performance.write(text) == text


def _workers(scaling: float, unshared: float) -> dict[str, Any]:
    def row(*names: str, median: float = 100.0) -> dict[str, dict[str, float]]:
        return {name: {"median": median, "spread": 0.0, "runs": 3} for name in names}

    rates = ("images_per_second", "images_per_second_less_client")
    own = row(*rates, "client_cores_busy", "least_busy_worker", "busiest_worker")
    return {
        "conditions": dict.fromkeys(("date", "cpu", "cores", "python", "grpcio", "onnxruntime", "commit"), "x")
        | {"load_average_before": 0.1},
        "targets": {"scaling": 0.9, "further_worker_mb": 40.0, "one_worker_mb": 130.0, "ready_seconds": 1.5},
        "rows_of_a_batch": 64,
        "client_shares_cores": {"1": False, "2": True},
        "cores": 2,
        "scaling": {"1": own, "2": own},
        "of_n_times_one": {
            "1": row("raw", "measured", "less_client", median=1.0),
            "2": row("raw", "measured", "less_client", median=scaling),
        },
        "single_calls": {"1": row("server_cpu_seconds_per_request", "requests_per_second")},
        "spread_of_calls": {
            "workers": 2,
            "connections": 4,
            "calls": [30, 34],
            "largest_share": [0.53],
            "clients_that_missed_a_worker": 0,
        },
        "memory": {"1": row("resident_mb", "unshared_mb"), "2": row("unshared_mb", median=unshared)},
        "ready": {"1 on 2 cores": row("seconds", median=1.5)},
    }


@pytest.mark.parametrize(
    ("scaling", "unshared", "missed"),
    [(0.9, 40.0, []), (0.89, 40.0, ["2 workers"]), (0.95, 40.1, ["unshared by a further worker"])],
)
def test_targets_are_judged_by_the_figures(
    monkeypatch: pytest.MonkeyPatch, scaling: float, unshared: float, missed: list[str]
) -> None:
    """A figure at its limit meets the target, one beyond does not; nothing is met by being typed."""
    monkeypatch.setattr(performance, "read", lambda _: _workers(scaling, unshared))
    lines = [line for block in performance.workers() for line in block.splitlines() if line.endswith("**missed** |")]
    assert [line.split("|")[1].split(",")[0].strip() for line in lines] == missed
