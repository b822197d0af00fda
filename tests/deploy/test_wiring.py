"""Manifests fit themselves and the server: selectors, ports, probes, settings, rules. No schema notices these."""

from __future__ import annotations

from pathlib import Path

import grpc
import pytest
import yaml
from grpc_health.v1 import health_pb2, health_pb2_grpc

from convserve import config
from support.manifests import (
    ROOT,
    SERVERS,
    Rendered,
    combined_name,
    of_kind,
    one,
    pod_templates,
    selects,
    server,
    servers,
    settings_of,
)
from support.server import ServerProcess


@servers
def test_selectors_find_the_servers_and_nothing_else(rendered: Rendered, parts: tuple[str, ...]) -> None:
    """Services, budget, policy and monitor select the server's pods, and not those of the training Job."""
    manifest = rendered(*parts)
    deployment = one(manifest, "Deployment")
    selectors = [
        deployment["spec"]["selector"]["matchLabels"],
        *(service["spec"]["selector"] for service in of_kind(manifest, "Service")),
        one(manifest, "PodDisruptionBudget")["spec"]["selector"]["matchLabels"],
        one(manifest, "NetworkPolicy")["spec"]["podSelector"]["matchLabels"],
        one(manifest, "PodMonitor")["spec"]["selector"]["matchLabels"],
        *(
            spread["labelSelector"]["matchLabels"]
            for spread in deployment["spec"]["template"]["spec"]["topologySpreadConstraints"]
        ),
    ]
    assert len(selectors) == 7
    (training,) = pod_templates(rendered("kubernetes/jobs/train"))
    for selector in selectors:
        assert selects(selector, deployment["spec"]["template"])
        assert not selects(selector, training)


@servers
def test_ports_are_the_servers(rendered: Rendered, parts: tuple[str, ...]) -> None:
    """The container's ports are the server's defaults; whatever names a port names one of them."""
    manifest = rendered(*parts)
    ports = {port["name"]: port["containerPort"] for port in server(manifest)["ports"]}
    defaults = config.Settings()
    assert ports == {"grpc": defaults.port, "http": defaults.http_port}
    for service in of_kind(manifest, "Service"):
        for port in service["spec"]["ports"]:
            assert ports[port["targetPort"]] == port["port"]
            if port["name"] == "grpc":  # h2c is HTTP/2 without encryption
                assert port["appProtocol"] == ("https" if "tls" in parts else "kubernetes.io/h2c")
    policy = one(manifest, "NetworkPolicy")["spec"]
    assert [[port["port"] for port in rule["ports"]] for rule in policy["ingress"]] == [["grpc"], ["http"]]
    (endpoint,) = one(manifest, "PodMonitor")["spec"]["podMetricsEndpoints"]
    assert endpoint["port"] == "http"


def test_there_is_a_headless_service(rendered: Rendered) -> None:
    """For clients that balance by themselves; and one with an address, for meshes."""
    services = of_kind(rendered("kubernetes/overlays/cpu"), "Service")
    assert sorted(service["spec"].get("clusterIP", "an address") for service in services) == ["None", "an address"]


@pytest.mark.parametrize("parts", [*SERVERS, ("kserve",)], ids=combined_name)
def test_probes_are_answered_by_a_real_server(
    rendered: Rendered, parts: tuple[str, ...], running: ServerProcess
) -> None:
    """GRPC probes have a numeric port and a service that a server knows; with TLS and KServe, HTTP ones a path."""
    manifest = rendered(*parts)
    container = one(manifest, "ServingRuntime")["spec"]["containers"][0] if parts == ("kserve",) else server(manifest)
    defaults = config.Settings()
    with grpc.insecure_channel(running.target) as channel:
        for kind in ("startup", "readiness", "liveness"):
            probe = container[f"{kind}Probe"]
            if "tls" in parts or parts == ("kserve",):
                assert "grpc" not in probe
                assert probe["httpGet"]["port"] in ("http", defaults.http_port)
                assert running.http(probe["httpGet"]["path"])[0] == 200
                assert probe["httpGet"]["path"] == ("/livez" if kind == "liveness" else "/readyz")
                continue
            assert probe["grpc"]["port"] == defaults.port
            assert probe["grpc"]["service"] == ("liveness" if kind == "liveness" else "readiness")
            request = health_pb2.HealthCheckRequest(service=probe["grpc"]["service"])
            answer = health_pb2_grpc.HealthStub(channel).Check(request, timeout=10)
            assert answer.status == health_pb2.HealthCheckResponse.SERVING


@servers
def test_settings_are_understood(rendered: Rendered, parts: tuple[str, ...], tmp_path: Path) -> None:
    """Variables and ConfigMap hold settings that exist; the device is the overlay's."""
    settings = settings_of(rendered(*parts), tmp_path)
    assert settings.host == "0.0.0.0"
    assert settings.model.device == ("cpu" if parts[0].endswith("cpu") else "cuda")
    assert bool(settings.tls.cert_file) == ("tls" in parts)


@servers
def test_a_rollout_waits_longer_than_a_pod_may_take_to_start(rendered: Rendered, parts: tuple[str, ...]) -> None:
    """Otherwise it is reported as failed while its first pod still proves its models; the image has to come too."""
    manifest = rendered(*parts)
    probe = server(manifest)["startupProbe"]
    starting = probe["periodSeconds"] * probe["failureThreshold"]
    assert one(manifest, "Deployment")["spec"]["progressDeadlineSeconds"] >= starting + 300


@servers
def test_there_is_time_to_drain(rendered: Rendered, parts: tuple[str, ...], tmp_path: Path) -> None:
    """The grace is longer than preStop, the drain's delay, refusing new calls and the drain's timeout together."""
    manifest = rendered(*parts)
    drain = settings_of(manifest, tmp_path).drain
    sleep = server(manifest)["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert sleep > 0
    grace = one(manifest, "Deployment")["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
    assert grace > sleep + drain.delay + 2 + drain.timeout


def test_the_rules_have_one_source(rendered: Rendered) -> None:
    """The PrometheusRule is what scripts/prometheus_rule.py makes of deploy/prometheus/rules."""
    groups = one(rendered("kubernetes/overlays/cpu"), "PrometheusRule")["spec"]["groups"]
    source = [
        group
        for path in sorted((ROOT / "deploy/prometheus/rules").glob("*.yaml"))
        for group in yaml.safe_load(path.read_text())["groups"]
    ]
    assert groups == source, "run: python scripts/prometheus_rule.py"
