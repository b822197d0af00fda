"""A real Prometheus scrapes a real server: every recording rule and every expression of the dashboard has data."""

from __future__ import annotations

import json
import math
import shutil
import socket
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from convserve import manifest
from support import expressions, versions
from support.server import ServerProcess
from support.waiting import until

pytestmark = [
    pytest.mark.timeout(300),
    pytest.mark.skipif(
        shutil.which("prometheus") is None,
        reason="NOT CHECKED: rules and dashboard against a real Prometheus, which is missing (Debian: apt-get install"
        " prometheus)",
    ),
]

Query = Callable[[str], list[dict[str, Any]]]


@pytest.fixture(scope="module")
def query(lively_server: ServerProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Query]:
    """Ask a Prometheus that scrapes the server every second, with the shipped rules evaluated as often."""
    root = tmp_path_factory.mktemp("prometheus")
    config = yaml.safe_load((expressions.ROOT / "deploy/prometheus/prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    config["rule_files"] = []
    for path in expressions.RULES.glob("*.yaml"):
        rules = yaml.safe_load(path.read_text())
        for group in rules["groups"]:
            group["interval"] = "1s"
        (root / path.name).write_text(yaml.safe_dump(rules))
        config["rule_files"].append(str(root / path.name))
    ours = next(one for one in config["scrape_configs"] if one["job_name"] == "convserve")
    # The labels are those that a cluster's Prometheus adds; autoscalers go by them.
    labels = {"namespace": "convserve", "pod": "convserve-0"}
    target = f"127.0.0.1:{lively_server.ready['http_port']}"
    ours["static_configs"] = [{"targets": [target], "labels": labels}]
    config["scrape_configs"] = [ours]
    (root / "prometheus.yml").write_text(yaml.safe_dump(config))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    with (root / "log").open("w") as log:
        process = subprocess.Popen(
            ["prometheus", f"--config.file={root / 'prometheus.yml'}", f"--storage.tsdb.path={root / 'data'}",
             f"--web.listen-address={address}"], stderr=log,
        )  # fmt: skip

        def ask(expression: str) -> list[dict[str, Any]]:
            assert process.poll() is None, (root / "log").read_text()
            parameters = urllib.parse.urlencode({"query": expression})
            try:
                with urllib.request.urlopen(f"http://{address}/api/v1/query?{parameters}", timeout=10) as answer:
                    return list(json.load(answer)["data"]["result"])
            except urllib.error.HTTPError as error:
                with error:
                    if error.code == 503:  # it is still starting
                        return []
                    raise AssertionError(error.read().decode()) from error
            except OSError:
                return []

        try:
            until(lambda: bool(ask("up == 1")), 60)
            yield ask
        finally:
            process.terminate()
            process.wait()


def has_data(result: list[dict[str, Any]]) -> bool:
    """Whether there is a number: an empty answer is none, and NaN is none."""
    return any(math.isfinite(float(series["value"][1])) for series in result)


@pytest.mark.parametrize("name", expressions.recordings())
def test_every_recording_rule_has_data(query: Query, name: str) -> None:
    """A rule whose labels match nothing would record nothing, silently."""
    until(lambda: has_data(query(name)), 60)


@pytest.mark.parametrize(
    "expression", [pytest.param(expression, id=title) for title, expression in expressions.panel_expressions()]
)
def test_every_panel_has_data(query: Query, expression: str) -> None:
    """No panel of the dashboard stays empty when everything it shows has happened."""
    until(lambda: has_data(query(expression)), 60)


@pytest.mark.parametrize("name", expressions.autoscaling())
def test_every_autoscaler_gets_one_number(query: Query, name: str) -> None:
    """For each pod or for all: of no number or of an error an autoscaler makes nothing, silently."""

    def asked() -> list[dict[str, Any]]:
        return query(expressions.autoscaling()[name])

    until(lambda: has_data(asked()), 60)
    assert len(asked()) == 1


def test_no_alert_is_broken(query: Query) -> None:
    """Each alert's expression can be evaluated; of a healthy server none that pages fires.

    Latency is left out: it is the machine's that runs the tests.
    """
    for name, alert in expressions.alerts().items():
        query(alert["expr"])
        if "Latency" not in name:
            assert not query(f'ALERTS{{alertname="{name}", alertstate="firing", severity="page"}}'), name


def test_the_counts_are_the_servers(query: Query, lively_server: ServerProcess) -> None:
    """What Prometheus has of the two workers together is what `/metrics` says, no later than the next scrape."""
    told = lively_server.metric("convserve_requests_total", code="OK")

    def scraped() -> float:
        return sum(float(one["value"][1]) for one in query('convserve_requests_total{code="OK"}'))

    until(lambda: scraped() >= told > 0, 30)
    assert Path("/proc", str(lively_server.process.pid)).exists()


def test_an_alert_goes_from_a_damaged_file_to_firing(query: Query, lively_server: ServerProcess) -> None:
    """The whole way: a version that cannot be proved is counted, scraped, evaluated, and fires."""
    repository = lively_server.log_file.parent / "repository"
    staged = versions.write_version(repository.parent / "staged", version=3, seed=2)
    (staged / manifest.ONNX_FILE).write_bytes(b"not what was published")
    staged.rename(repository / "stripes/3")
    until(
        lambda: bool(query('ALERTS{alertname="ConvserveVersionLoadFailed", alertstate="firing", model="stripes"}')), 60
    )
    assert lively_server.metric("convserve_default_version", model="stripes") == 1
