"""Tables and reports, also of runs that went wrong."""

from __future__ import annotations

import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from rich.console import Console

from convserve.errors import ConfigError
from convserve.loadtest import arrivals, html, plots, slo, table
from convserve.loadtest.process import Load
from convserve.loadtest.records import RECORD, ClientStats
from convserve.loadtest.run import Goals, Run
from convserve.loadtest.scenario import SCENARIOS
from convserve.loadtest.search import Found
from convserve.loadtest.tally import Tally
from convserve.loadtest.workload import Check


def run_of(good: int, failed: int, *, rate: float = 100.0, told: bool = True) -> Run:
    tally = Tally(1.0, 10.0)
    records = np.zeros(good + failed, RECORD)
    records["intended"] = 1 + np.linspace(0, 9.9, good + failed)
    records["sent"] = records["intended"]
    records["done"] = records["intended"] + np.random.default_rng(0).gamma(3, 0.002, good + failed)
    records["code"][good:] = 8
    records["rows"] = 1
    records["run"], records["batch"] = (0.001, 4) if told else (-1, 0)
    tally.take(records)
    details = {8: "<b>full</b>"} if failed else {}
    client = ClientStats(10, 2, 2, 0.1, check=Check(rows=good, labelled=good, right=good), details=details)
    load = Load(1.0, 10.0, 4, profile=arrivals.constant(rate, 11))
    return Run(SCENARIOS["server"], load, rate, tally, [client], Goals(slo.parse("p99=20ms")))


def campaign_of(*runs: Run) -> Any:
    conditions = {"model": "m", "target": "h:1", "date": "2026-01-01", "client_machine": {"cores": 2}, "list": [1, 2]}
    return SimpleNamespace(runs=list(runs), conditions=lambda: conditions)


CASES = {"good": (500, 0), "some failed": (480, 20), "all failed": (0, 50), "one": (1, 0)}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("good", "failed", "told"), [(50, 0, True), (50, 0, False), (0, 50, True), (1, 0, True), (0, 0, True)]
)
def test_pictures_are_drawn_of_every_run(good: int, failed: int, told: bool) -> None:
    """A whole SVG, also where nothing was sent or answered, or the server told nothing."""
    picture = ElementTree.fromstring(plots.draw(run_of(good, failed, told=told), []))
    assert picture.tag.endswith("svg")


def test_a_sweep_is_drawn_by_throughput() -> None:
    """Runs without answers are left out of the curve."""
    runs = [run_of(100, 0, rate=10), run_of(400, 0, rate=40), run_of(0, 50, rate=80)]
    assert "Latency by throughput" in plots.draw(runs[0], runs)
    assert "Where the time goes" in plots.draw(runs[0], runs[:1])


@pytest.mark.parametrize("counts", [CASES["good"], CASES["some failed"]])
def test_a_report_is_a_page(counts: tuple[int, int], tmp_path: Path) -> None:
    """What came from a server is text in it, never markup."""
    run = run_of(*counts)
    html.write(tmp_path / "r.html", campaign_of(run, run), None, run.failures)
    text = (tmp_path / "r.html").read_text()
    assert text.startswith("<!doctype html>")
    assert text.endswith("</html>")
    assert ("&lt;b&gt;full&lt;/b&gt;" in text) == (counts[1] > 0)
    assert "<b>full" not in text
    assert ("class='bad'" in text) == (counts[1] > 0)


def test_a_report_does_not_praise_a_run_with_failures(tmp_path: Path) -> None:
    """Nothing was promised, so nothing was broken; but it says how many failed, and not that all was well."""
    run = run_of(480, 20)
    run.verdicts = []
    html.write(tmp_path / "report.html", campaign_of(run), None, [])
    page = (tmp_path / "report.html").read_text()
    assert "20 of 500 requests failed" in page
    assert "promises kept" not in page


def test_a_search_leads_with_its_result(tmp_path: Path) -> None:
    """The rate found, and whether it is in doubt; the picture is of a run at that rate."""
    found = Found(40.0, [(40.0, True)], in_doubt=True)
    html.write(tmp_path / "r.html", campaign_of(run_of(400, 0, rate=40), run_of(0, 9, rate=80)), found, [])
    text = (tmp_path / "r.html").read_text()
    assert "<b>40 requests/s</b> is the highest rate found that keeps p99=20ms" in text
    assert "in invalid runs only" in text


def test_a_report_that_cannot_be_written_is_a_sentence(tmp_path: Path) -> None:
    """Names the file."""
    with pytest.raises(ConfigError, match="cannot be written"):
        html.write(tmp_path / "no/such/r.html", campaign_of(run_of(9, 0)), None, [])
    with pytest.raises(ConfigError, match="there was no run"):
        html.write(tmp_path / "r.html", campaign_of(), None, [])


@pytest.mark.parametrize("counts", CASES.values(), ids=CASES)
def test_tables_tell_what_happened(counts: tuple[int, int]) -> None:
    """Percentiles or "failed", every status with its first text, what the SLO says."""
    console = Console(file=io.StringIO(), width=160)
    run = run_of(*counts)
    table.show(console, run)
    table.show_sweep(console, [run, run])
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "SLO p99=20ms" in text
    assert ("RESOURCE_EXHAUSTED: <b>full</b>" in text) == (counts[1] > 0)
    assert ("failed" in text.split("statuses")[0]) == (counts[1] > 0)


def test_what_a_server_says_is_no_markup() -> None:
    """Neither lost, as a style that is not known would be, nor an error, as an end without a beginning."""
    console = Console(file=io.StringIO(), width=160)
    run = run_of(0, 9)
    run.details[8] = "files are [images] or [/images, 1]"
    table.show(console, run)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "none of 9 requests was answered; RESOURCE_EXHAUSTED: files are [images] or [/images, 1]" in text
