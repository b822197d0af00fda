"""What PromQL expressions ask for, and where they stand: rules, the dashboard, autoscalers."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
RULES = ROOT / "deploy/prometheus/rules"
RULE_TESTS = ROOT / "deploy/prometheus/tests"
COMPONENTS = ROOT / "deploy/kubernetes/components"
DASHBOARD = ROOT / "deploy/grafana/dashboards/convserve.json"
_STRING = re.compile(r'"[^"]*"')
_LABELS = re.compile(r"\{[^}]*\}")
_NAME = re.compile(r"\b(?:\w+:)?(?:convserve|process|python)[_:][\w:]+")


def rules() -> list[dict[str, Any]]:
    """Every recording rule and alert."""
    files = [yaml.safe_load(path.read_text()) for path in sorted(RULES.glob("*.yaml"))]
    return [rule for file in files for group in file["groups"] for rule in group["rules"]]


def alerts() -> dict[str, dict[str, Any]]:
    """Alerts by name."""
    return {rule["alert"]: rule for rule in rules() if "alert" in rule}


def recordings() -> dict[str, str]:
    """Expressions of the recording rules by name."""
    return {rule["record"]: rule["expr"] for rule in rules() if "record" in rule}


def panels() -> list[dict[str, Any]]:
    """Panels of the dashboard, rows included."""
    return list(json.loads(DASHBOARD.read_text())["panels"])


def panel_expressions() -> Iterator[tuple[str, str]]:
    """(title and letter, expression) of everything the dashboard draws, with its variables filled in."""
    for panel in panels():
        for target in panel.get("targets", []):
            expression = target["expr"].replace("$__rate_interval", "5m").replace("$job", ".*").replace("$model", ".*")
            yield f"{panel['title']} {target['refId']}", expression


def autoscaling() -> dict[str, str]:
    """What autoscalers ask, by the name of metric or trigger, for the namespace `convserve`."""
    rules = yaml.safe_load((COMPONENTS / "hpa/adapter-rules.yaml").read_text())["rules"]["custom"]
    scaled = yaml.safe_load((COMPONENTS / "keda/scaledobject.yaml").read_text())["spec"]
    return {
        **{rule["name"]["as"]: _for_adapter(rule["metricsQuery"]) for rule in rules},
        **{trigger["name"]: trigger["metadata"]["query"] for trigger in scaled["triggers"]},
    }


def _for_adapter(template: str) -> str:
    """A query as prometheus-adapter fills it in, for all pods."""
    return template.replace("<<.LabelMatchers>>", 'namespace="convserve",pod=~".+"').replace("<<.GroupBy>>", "pod")


def names(expression: str) -> set[str]:
    """Metrics that an expression reads; label names and values are none."""
    return set(_NAME.findall(_LABELS.sub("", _STRING.sub("", expression))))
