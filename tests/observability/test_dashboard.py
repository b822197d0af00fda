"""The Grafana dashboard as a file."""

from __future__ import annotations

import itertools
import json

from scripts.dashboard import dashboard
from support import expressions


def test_the_file_is_what_the_script_writes() -> None:
    """Changes go into scripts/dashboard_panels.py; then: python -m scripts.dashboard > the file."""
    assert json.loads(expressions.DASHBOARD.read_text()) == dashboard()


def test_rows_follow_a_request() -> None:
    """From what callers feel to what explains it."""
    rows = [panel["title"] for panel in expressions.panels() if panel["type"] == "row"]
    assert rows == [
        "Requests, errors, duration", "Queue and batch", "Execution", "Resources", "Versions and drift",
    ]  # fmt: skip


def test_panels_neither_overlap_nor_share_an_id() -> None:
    """Grafana would move the one and lose the other."""
    places = [panel["gridPos"] for panel in expressions.panels()]
    for one, other in itertools.combinations(places, 2):
        beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        below = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert beside or below, (one, other)
    assert all(place["x"] >= 0 and place["x"] + place["w"] <= 24 for place in places)
    ids = [panel["id"] for panel in expressions.panels()]
    assert len(set(ids)) == len(ids)


def test_every_panel_explains_itself_and_asks_the_chosen_source() -> None:
    """No address of a data source is in the file; each expression can be narrowed by the variables."""
    for panel in expressions.panels():
        if panel["type"] == "row":
            continue
        assert panel["description"], panel["title"]
        assert panel["datasource"]["uid"] == "${datasource}"
        for target in panel["targets"]:
            assert target["datasource"]["uid"] == "${datasource}"
            assert "$job" in target["expr"], panel["title"]
