"""Write the PrometheusRule of deploy/kubernetes from the rule files in deploy/prometheus/rules, their one source.

python scripts/prometheus_rule.py
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
RULES = ROOT / "deploy/prometheus/rules"
MANIFEST = ROOT / "deploy/kubernetes/components/monitoring/prometheusrule.yaml"
_HEADER = "# Made from deploy/prometheus/rules by scripts/prometheus_rule.py; change the rules there.\n"


class _Dumper(yaml.SafeDumper):
    """Writes texts of several lines as such."""


_Dumper.add_representer(
    str,
    lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None),
)


def manifest() -> str:
    """The PrometheusRule as YAML: the groups of all rule files, in the order of their names."""
    groups: list[Any] = []
    for path in sorted(RULES.glob("*.yaml")):
        groups += yaml.safe_load(path.read_text())["groups"]
    rule = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "convserve"},
        "spec": {"groups": groups},
    }
    return _HEADER + yaml.dump(rule, Dumper=_Dumper, sort_keys=False, width=120, allow_unicode=True)


if __name__ == "__main__":
    MANIFEST.write_text(manifest())
    print(MANIFEST.relative_to(ROOT))
