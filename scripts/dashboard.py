"""Write the Grafana dashboard: python -m scripts.dashboard > deploy/grafana/dashboards/convserve.json.

Rows from what callers feel to what explains it: requests, errors and duration; queue and batch; execution; resources;
versions and drift. Classic JSON model, which every Grafana since 11 reads.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Any

from scripts.dashboard_panels import MODEL, ROWS, Panel

SOURCE = {"type": "prometheus", "uid": "${datasource}"}
WIDTH = 24
HEIGHT = 8


def targets(panel: Panel) -> list[dict[str, Any]]:
    """A panel's expressions as Grafana writes them."""
    is_table = panel.kind == "table"
    return [
        {
            "datasource": SOURCE,
            "editorMode": "code",
            "expr": expression,
            "format": {"table": "table", "heatmap": "heatmap"}.get(panel.kind, "time_series"),
            "instant": is_table,
            "legendFormat": legend or "__auto",
            "range": not is_table,
            "refId": chr(ord("A") + index),
        }
        for index, (legend, expression) in enumerate(panel.queries.items())
    ]


def options(panel: Panel) -> dict[str, Any]:
    """What each kind of panel wants to know."""
    if panel.kind == "stat":
        return {
            "colorMode": "value",
            "graphMode": "area",
            "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
            "textMode": "auto",
        }
    if panel.kind == "table":
        return {"cellHeight": "sm", "showHeader": True}
    if panel.kind == "heatmap":
        return {
            "calculate": False,
            "cellGap": 1,
            "color": {"mode": "scheme", "scheme": "Oranges", "steps": 64},
            "legend": {"show": True},
            "tooltip": {"mode": "single", "showColorScale": False, "yHistogram": False},
            "yAxis": {"axisPlacement": "left", "unit": "s"},
        }
    return {
        "legend": {"calcs": ["mean", "max"], "displayMode": "table", "placement": "bottom", "showLegend": True},
        "tooltip": {"mode": "multi", "sort": "desc"},
    }


def field_config(panel: Panel) -> dict[str, Any]:
    """Units, colours and limits."""
    steps = [{"color": "green", "value": None}]
    steps += [{"color": colour, "value": value} for colour, value in panel.limits.items()]  # type: ignore[dict-item]
    defaults: dict[str, Any] = {"unit": panel.unit, "thresholds": {"mode": "absolute", "steps": steps}}
    if panel.kind == "timeseries":
        defaults["min"] = 0
        defaults["custom"] = {
            "drawStyle": "line",
            "fillOpacity": 30 if panel.stacked else 0,
            "lineWidth": 1,
            "showPoints": "never",
            "stacking": {"group": "A", "mode": "normal" if panel.stacked else "none"},
        }
    return {"defaults": defaults, "overrides": []}


def transformations(panel: Panel) -> list[dict[str, Any]]:
    """Tables show labels only."""
    if panel.kind != "table":
        return []
    return [{"id": "organize", "options": {"excludeByName": {"Time": True, "Value": True}}}]


def panels() -> Iterator[dict[str, Any]]:
    """Rows and their panels, laid out from left to right."""
    number, top = 0, 0
    for title, members in ROWS.items():
        number += 1
        yield {
            "collapsed": False,
            "gridPos": {"h": 1, "w": WIDTH, "x": 0, "y": top},
            "id": number,
            "panels": [],
            "title": title,
            "type": "row",
        }
        top += 1
        left = 0
        for panel in members:
            if left + panel.width > WIDTH:
                left, top = 0, top + HEIGHT
            number += 1
            yield {
                "datasource": SOURCE,
                "description": panel.description,
                "fieldConfig": field_config(panel),
                "gridPos": {"h": HEIGHT, "w": panel.width, "x": left, "y": top},
                "id": number,
                "options": options(panel),
                "targets": targets(panel),
                "title": panel.title,
                "transformations": transformations(panel),
                "type": panel.kind,
            }
            left += panel.width
        top += HEIGHT


def variable(name: str, label: str, query: str) -> dict[str, Any]:
    """A list to choose from; all of it at first."""
    return {
        "allValue": ".*",
        "current": {"selected": True, "text": ["All"], "value": ["$__all"]},
        "datasource": SOURCE,
        "definition": query,
        "includeAll": True,
        "label": label,
        "multi": True,
        "name": name,
        "query": {"qryType": 1, "query": query, "refId": name},
        "refresh": 2,
        "sort": 1,
        "type": "query",
    }


def dashboard() -> dict[str, Any]:
    """All of it."""
    return {
        "annotations": {
            "list": [
                {
                    "datasource": SOURCE,
                    "enable": True,
                    "expr": f"changes(convserve_default_version{{{MODEL}}}[1m]) > 0",
                    "iconColor": "blue",
                    "name": "Another version answers",
                    "titleFormat": "{{model}}",
                }
            ]
        },
        "description": "convserve: requests, queue and batch, execution, resources, versions and drift.",
        "editable": True,
        "graphTooltip": 1,
        "links": [],
        "panels": list(panels()),
        "refresh": "30s",
        "schemaVersion": 41,
        "tags": ["convserve"],
        "templating": {
            "list": [
                {
                    "label": "Data source",
                    "name": "datasource",
                    "query": "prometheus",
                    "refresh": 1,
                    "type": "datasource",
                },
                variable("job", "Job", "label_values(convserve_build_info, job)"),
                variable("model", "Model", 'label_values(convserve_default_version{job=~"$job"}, model)'),
            ]
        },
        "time": {"from": "now-1h", "to": "now"},
        "timezone": "browser",
        "title": "convserve",
        "uid": "convserve",
        "version": 1,
    }


if __name__ == "__main__":
    json.dump(dashboard(), sys.stdout, indent=2)
    sys.stdout.write("\n")
