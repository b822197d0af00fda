"""Autoscalers read what the server tells."""

from __future__ import annotations

import re

import yaml

from support import expressions
from support.manifests import KUBERNETES, Rendered, one
from support.server import ServerProcess


def test_one_thing_scales(rendered: Rendered) -> None:
    """An autoscaler points at the Deployment, which then states no number of its own."""
    for component, kind, target in (
        ("hpa", "HorizontalPodAutoscaler", {"apiVersion": "apps/v1", "kind": "Deployment", "name": "convserve"}),
        ("keda", "ScaledObject", {"name": "convserve"}),
    ):
        manifest = rendered("kubernetes/overlays/cpu", component)
        assert one(manifest, kind)["spec"]["scaleTargetRef"] == target
        deployment = one(manifest, "Deployment")
        assert deployment["metadata"]["name"] == target["name"]
        assert "replicas" not in deployment["spec"]


def test_autoscalers_read_metrics_that_exist(rendered: Rendered, running: ServerProcess) -> None:
    """The adapter makes the metrics that the HPA reads, from metrics that a live server has."""
    exposed = set(re.findall(r"^(convserve_\w+)", running.http("/metrics")[1], re.MULTILINE))
    for query in expressions.autoscaling().values():
        names = expressions.names(query)
        assert names
        assert names <= exposed
    adapter = yaml.safe_load((KUBERNETES / "components/hpa/adapter-rules.yaml").read_text())["rules"]["custom"]
    hpa = one(rendered("kubernetes/overlays/cpu", "hpa"), "HorizontalPodAutoscaler")["spec"]["metrics"]
    made = {rule["name"]["as"] for rule in adapter}
    assert {metric["pods"]["metric"]["name"] for metric in hpa} == made
