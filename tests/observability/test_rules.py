"""Prometheus' rules: valid, tested, and explained."""

from __future__ import annotations

import shutil
import subprocess
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
import yaml

from support import expressions
from support.server import ServerProcess

needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None,
    reason="NOT CHECKED: Prometheus rules and their tests; promtool is missing (Debian: apt-get install prometheus)",
)


def promtool(*arguments: str | Path, text: str | None = None) -> None:
    """Run promtool; its words are the assertion's."""
    ended = subprocess.run(
        ["promtool", *map(str, arguments)], capture_output=True, text=True, input=text, check=False, timeout=300
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr


@needs_promtool
def test_configuration_and_rules_are_valid() -> None:
    """`promtool check`, with every lint on."""
    promtool("check", "config", expressions.ROOT / "deploy/prometheus/prometheus.yml")
    promtool("check", "rules", "--lint=all", "--lint-fatal", *sorted(expressions.RULES.glob("*.yaml")))


@needs_promtool
@pytest.mark.timeout(600)
def test_alerts_fire_and_keep_quiet_as_their_tests_say() -> None:
    """`promtool test rules`."""
    promtool("test", "rules", *sorted(expressions.RULE_TESTS.glob("*.yaml")))


@needs_promtool
def test_a_live_scrape_passes_the_linter(lively_server: ServerProcess) -> None:
    """Names, units and help texts follow Prometheus' rules."""
    promtool("check", "metrics", text=lively_server.http("/metrics")[1])


def test_every_alert_is_tested_both_ways() -> None:
    """One test in which it fires, one in which it does not."""
    outcomes: defaultdict[str, set[bool]] = defaultdict(set)
    for path in expressions.RULE_TESTS.glob("*.yaml"):
        for test in yaml.safe_load(path.read_text())["tests"]:
            for one in test.get("alert_rule_test", []):
                outcomes[one["alertname"]].add(bool(one["exp_alerts"]))
    assert dict(outcomes) == {name: {True, False} for name in expressions.alerts()}


@pytest.mark.parametrize(("name", "alert"), expressions.alerts().items(), ids=str)
def test_every_alert_has_a_runbook_of_its_name(name: str, alert: dict[str, Any]) -> None:
    """The annotation names the file; the file says what it means, how to look, and what to do."""
    assert alert["annotations"]["runbook"] == f"docs/runbooks/{name}.md"
    assert alert["labels"]["severity"] in ("page", "ticket")
    text = (expressions.ROOT / alert["annotations"]["runbook"]).read_text()
    assert text.startswith(f"# {name}\n")
    for heading in ("## What it means", "## Look", "## Do"):
        assert heading in text, heading


def test_no_runbook_without_an_alert() -> None:
    """A runbook nobody is sent to goes stale."""
    files = {path.stem for path in (expressions.ROOT / "docs/runbooks").glob("*.md")}
    assert files == set(expressions.alerts())


def test_runbooks_quote_metrics_that_exist(lively_server: ServerProcess) -> None:
    """Whoever is woken up can paste each expression."""
    shown = lively_server.http("/metrics")[1]
    for path in (expressions.ROOT / "docs/runbooks").glob("*.md"):
        for name in expressions.names(path.read_text()):
            assert name in shown or name in expressions.recordings(), f"{path.name}: {name}"
