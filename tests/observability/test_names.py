"""Rules and dashboard ask for what a server really tells."""

from __future__ import annotations

import pytest
from prometheus_client.parser import text_string_to_metric_families

from support import expressions
from support.server import ServerProcess


@pytest.fixture(scope="module")
def shown(lively_server: ServerProcess) -> set[str]:
    """Names of the samples of a live `/metrics`."""
    text = lively_server.http("/metrics")[1]
    return {sample.name for family in text_string_to_metric_families(text) for sample in family.samples}


def test_rules_read_metrics_that_exist(shown: set[str]) -> None:
    """Every name in a rule is a metric of a live server, or recorded by another rule."""
    known = shown | set(expressions.recordings())
    asked = {name for rule in expressions.rules() for name in expressions.names(rule["expr"])}
    assert asked
    assert asked <= known, asked - known


def test_the_dashboard_reads_metrics_that_exist(shown: set[str]) -> None:
    """The same for each panel."""
    known = shown | set(expressions.recordings())
    asked = {name for _, expression in expressions.panel_expressions() for name in expressions.names(expression)}
    assert asked
    assert asked <= known, asked - known


def test_no_name_that_a_caller_made_up_becomes_a_label(lively_server: ServerProcess) -> None:
    """Callers asked for a model `unknown`: it was counted, without its name, or anybody could fill the memory."""
    assert lively_server.metric("convserve_requests_total", model="", code="NOT_FOUND") >= 8
    assert "unknown" not in lively_server.http("/metrics")[1]


def test_every_metric_of_the_design_is_on_the_dashboard_or_in_a_rule(shown: set[str]) -> None:
    """What nobody looks at need not be counted; buckets, sums and counts belong together."""
    asked = {name for rule in expressions.rules() for name in expressions.names(rule["expr"])}
    asked |= {name for _, expression in expressions.panel_expressions() for name in expressions.names(expression)}
    families = {_family(name) for name in shown if name.startswith("convserve_")}
    unread = families - {_family(name) for name in asked} - {"convserve_build_info"}  # that one fills a variable
    assert not unread


def _family(name: str) -> str:
    for ending in ("_bucket", "_sum", "_count"):
        name = name.removesuffix(ending)
    return name
