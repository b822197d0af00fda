"""The compose file: what it mounts exists, what it names is found, and the server is as hardened as in Kubernetes."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from convserve import config
from support.manifests import DOCKERFILE, ROOT

FILE = ROOT / "deploy/compose/compose.yaml"
SERVERS = {"cpu": "convserve", "gpu": "convserve-gpu"}
"""The server's service by profile."""


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(FILE.read_text())["services"]
    return found


def mounts(service: dict[str, Any]) -> dict[str, Path]:
    """Paths of this repository by where they are mounted."""
    pairs = (volume.split(":")[:2] for volume in service["volumes"])
    return {inside: (FILE.parent / outside).resolve() for outside, inside in pairs if outside.startswith(".")}


@pytest.mark.parametrize("profile", SERVERS)
def test_compose_takes_it(profile: str) -> None:
    """`docker compose config` finds no mistake, with either profile."""
    command = ["docker-compose"] if shutil.which("docker-compose") else ["docker", "compose"]
    is_there = shutil.which(command[0]) is not None
    if not is_there or subprocess.run([*command, "version"], capture_output=True, check=False).returncode:
        pytest.skip("NOT CHECKED: the compose file was not parsed by compose; needs docker compose")
    ended = subprocess.run(
        [*command, "-f", str(FILE), "config", "--quiet"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={**os.environ, "COMPOSE_PROFILES": profile},
    )
    assert ended.returncode == 0, ended.stderr


def test_the_cpu_profile_is_the_default(services: dict[str, Any]) -> None:
    """One command without a variable starts the server on CPUs, Prometheus and Grafana."""
    assert "COMPOSE_PROFILES=cpu\n" in (FILE.parent / ".env").read_text()
    assert {name for name, service in services.items() if "profiles" not in service} == {"prometheus", "grafana"}


@pytest.mark.parametrize("profile", SERVERS)
def test_the_server_is_hardened(services: dict[str, Any], profile: str) -> None:
    """Read-only root, no capabilities, no new privileges, ports on loopback only; it is built from its target."""
    service = services[SERVERS[profile]]
    assert service["profiles"] == [profile]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert "no-new-privileges:true" in service["security_opt"]
    assert service["build"]["target"] == profile
    assert (FILE.parent / service["build"]["context"]).resolve() == ROOT
    (version,) = re.findall(r"^ARG VERSION=(\S+)$", DOCKERFILE.read_text(), re.MULTILINE)
    assert service["image"] == f"convserve:{version}-{profile}"
    defaults = config.Settings()
    assert service["ports"] == [f"127.0.0.1:{port}:{port}" for port in (defaults.port, defaults.http_port)]
    assert int(service["stop_grace_period"].rstrip("s")) > defaults.drain.delay + 2 + defaults.drain.timeout


def test_one_gpu_is_reserved(services: dict[str, Any]) -> None:
    """In the profile for GPUs, and nowhere else."""
    (device,) = services["convserve-gpu"]["deploy"]["resources"]["reservations"]["devices"]
    assert device == {"driver": "nvidia", "count": 1, "capabilities": ["gpu"]}
    assert "deploy" not in services["convserve"]


def test_prometheus_finds_rules_and_server(services: dict[str, Any]) -> None:
    """Its file and rules are mounted where it looks, and it scrapes the server's name and HTTP port."""
    mounted = mounts(services["prometheus"])
    (place,) = (place for place, path in mounted.items() if path.name == "prometheus.yml")
    assert f"--config.file={place}" in services["prometheus"]["command"]
    settings = yaml.safe_load(mounted[place].read_text())
    for pattern in settings["rule_files"]:
        folder, files = (Path(place).parent / pattern).parent, Path(pattern).name
        assert list(mounted[str(folder)].glob(files))
    scraped = {
        target for job in settings["scrape_configs"] for each in job["static_configs"] for target in each["targets"]
    }
    assert f"convserve:{config.Settings().http_port}" in scraped
    for server in SERVERS.values():
        assert "convserve" in services[server]["networks"]["default"]["aliases"]


def test_grafana_finds_datasource_and_dashboards(services: dict[str, Any]) -> None:
    """Provisioning is mounted where it looks; its files point at Prometheus and at the mounted dashboards."""
    mounted = mounts(services["grafana"])
    provisioning = mounted["/etc/grafana/provisioning"]
    (source,) = yaml.safe_load((provisioning / "datasources/prometheus.yaml").read_text())["datasources"]
    assert source["url"] == "http://prometheus:9090"
    assert source["isDefault"]
    (provider,) = yaml.safe_load((provisioning / "dashboards/convserve.yaml").read_text())["providers"]
    dashboards = mounted[provider["options"]["path"]]
    home = Path(services["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"])
    assert str(home.parent) == provider["options"]["path"]
    assert (dashboards / home.name).is_file()


def test_everything_mounted_exists(services: dict[str, Any]) -> None:
    """A missing path would become an empty directory."""
    for service in services.values():
        if "volumes" in service:
            for path in mounts(service).values():
                assert path.exists(), path
