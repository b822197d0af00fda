"""docs/operations.md against code and a live server: what is documented exists, and what exists is documented."""

from __future__ import annotations

import re
import tomllib

import grpc
import msgspec
import pytest
from prometheus_client.parser import text_string_to_metric_families

from convserve.config import LimitSettings, Settings
from convserve.server import status
from scripts import reference
from support import expressions
from support.server import ServerProcess

TEXT = reference.OPERATIONS.read_text()
METRIC = re.compile(r"^\| `(convserve_\w+)` \| (\w+) \| ([^|]*) \| [^|]+ \|$", re.MULTILINE)
BLOCK = re.compile(r"```(\w+)\n(.*?)```", re.DOTALL)


def section(title: str) -> str:
    """The text below a heading."""
    return TEXT.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def test_the_tables_are_what_code_and_results_say() -> None:
    """After a change of a setting or a measurement: python -m scripts.reference."""
    assert reference.write(TEXT) == TEXT


def test_every_metric_of_a_live_server_is_documented_and_no_other(lively_server: ServerProcess) -> None:
    """Name, type and labels, both ways."""
    live = {}
    for family in text_string_to_metric_families(lively_server.http("/metrics")[1]):
        name = family.name + ("_total" if family.type == "counter" else "")
        labels = {label for sample in family.samples for label in sample.labels} - {"le"}
        if name.startswith("convserve_"):
            live[name] = (family.type, labels)
        else:
            assert name.startswith(("process_", "python_gc_")), name
    documented = {name: (kind, set(re.findall(r"\w+", labels))) for name, kind, labels in METRIC.findall(TEXT)}
    assert documented == live


def test_every_status_code_is_documented_and_no_other() -> None:
    """The table of errors is the one place that decides."""
    codes = set(re.findall(r"^\| ([A-Z_]+) \|", section("Status codes"), re.MULTILINE))
    known = {code.name for code in status._CODES.values()}
    assert codes == {*known, grpc.StatusCode.OK.name, grpc.StatusCode.INTERNAL.name}


def test_every_limit_is_documented() -> None:
    """The settings of `limits`, and the bounds of the queue."""
    limits = {f"limits.{field.name}" for field in msgspec.structs.fields(LimitSettings)}
    named = set(re.findall(r"`((?:limits|model|drain)\.\w+)`", section("Limits")))
    assert named == {*limits, "model.max_queue_rows", "model.max_queue_bytes", "drain.timeout"}


def test_every_alert_is_listed() -> None:
    """With its severity and a link to its runbook."""
    listed = dict(re.findall(r"^\| \[(\w+)\]\(runbooks/\1\.md\) \| (\w+) \|", TEXT, re.MULTILINE))
    assert listed == {name: alert["labels"]["severity"] for name, alert in expressions.alerts().items()}


@pytest.mark.parametrize("text", [text for kind, text in BLOCK.findall(TEXT) if kind == "toml"])
def test_every_example_of_a_file_is_valid(text: str) -> None:
    """Copied from the page, it is read without complaint."""
    assert msgspec.convert(tomllib.loads(text), Settings)


def test_every_query_asks_for_metrics_that_exist(lively_server: ServerProcess) -> None:
    """Copied from the page, it can have an answer."""
    shown = lively_server.http("/metrics")[1]
    queries = "\n".join(text for kind, text in BLOCK.findall(TEXT) if kind == "promql")
    for name in expressions.names(queries) | set(re.findall(r"`(model:convserve\w+:\w+)`", TEXT)):
        assert name in shown or name in expressions.recordings(), name


def test_every_link_leads_somewhere() -> None:
    """Files, and headings of the page itself."""
    headings = {title.lower().replace(" ", "-") for title in re.findall(r"^## (.*)$", TEXT, re.MULTILINE)}
    for target in re.findall(r"\]\(([^)]+)\)", TEXT):
        path, _, heading = target.partition("#")
        if path:
            assert (reference.OPERATIONS.parent / path).exists(), target
        else:
            assert heading in headings, target
