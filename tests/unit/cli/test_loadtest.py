"""When `convserve loadtest` ends with status 1 or 2."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from convserve.__main__ import main
from convserve.cli.loadtest import _problems
from convserve.loadtest.search import Found

MISSED, UNANSWERED, WRONG = "SLO p99=20ms was missed", "none of 9 requests was answered", "1 of 9 answers were wrong"


def campaign(
    *failures: str, invalid: tuple[str, ...] = (), sweep: tuple[float, ...] = (), searches: bool = False
) -> Any:
    run = SimpleNamespace(failures=list(failures), invalid=list(invalid), rate=50.0)
    return SimpleNamespace(runs=[run], options=SimpleNamespace(sweep=sweep, searches=searches), lowest_rate=10.0)


@pytest.mark.parametrize(
    ("sweep", "found", "problems"),
    [
        ((), None, [MISSED, UNANSWERED, WRONG, "invalid: busy"]),
        (
            (50.0,),
            None,
            [f"at 50 requests/s: {UNANSWERED}", f"at 50 requests/s: {WRONG}", "invalid: at 50 requests/s: busy"],
        ),
        ((), Found(50.0), [f"at 50 requests/s: {WRONG}"]),
    ],
    ids=["one rate", "sweep", "search"],
)
def test_what_is_looked_for_is_no_problem(sweep: tuple[float, ...], found: Found | None, problems: list[str]) -> None:
    """Rates that miss the SLO are what a search and a sweep are about; wrong answers and invalid runs are not."""
    made = campaign(MISSED, UNANSWERED, WRONG, invalid=("busy",), sweep=sweep, searches=found is not None)
    assert _problems(made, found) == problems


def test_a_search_that_found_nothing_or_is_in_doubt_has_failed() -> None:
    """Its number would be read as the server's."""
    made = campaign(searches=True)
    assert "no rate kept the SLO" in _problems(made, Found(0.0))[0]
    assert "higher rates failed in invalid runs only" in _problems(made, Found(50.0, in_doubt=True))[0]
    assert _problems(made, Found(50.0)) == []


def test_a_search_that_was_interrupted_says_nothing_of_the_slo() -> None:
    """What it did not come to is not missed."""
    assert _problems(campaign(MISSED, invalid=("busy",), searches=True), None) == []


@pytest.mark.parametrize("rates", ["0", "100,-5", "100,nan", "x"])
def test_what_is_no_rate_to_sweep_is_a_sentence(rates: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The option, what came and what is wanted; no traceback."""
    assert main(["loadtest", "--model", "m", "--sweep", rates]) == 1
    assert f"sweep: '{rates}' came; wanted are rates such as 500,1000,2000" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--scenario", "closed"], "rate: 40 came; in closed the answers decide"),
        (["--scenario", "offline"], "rate: 40 came; in offline the answers decide"),
        (["--sweep", "10,20"], "rate: 40 came with --sweep"),
    ],
)
def test_a_rate_that_would_mean_nothing_is_refused(
    flags: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whoever gave it would take the result for that rate's."""
    assert main(["loadtest", "--model", "m", "--rate", "40", *flags]) == 1
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(("option", "value"), [("--seed", "-1"), ("--min-accuracy", "98"), ("--min-accuracy", "nan")])
def test_numbers_out_of_range_are_refused(option: str, value: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Before anything is sent."""
    with pytest.raises(SystemExit) as ended:
        main(["loadtest", "--model", "m", "--rate", "1", option, value])
    assert ended.value.code == 2
    assert f"{value} came; it must be 0" in capsys.readouterr().err
