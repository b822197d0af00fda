"""Traces of a real server, with callers in this process that trace as applications do."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc

from convserve import Client
from convserve.errors import ConvserveError
from support import foreign, versions, waiting
from support import server as servers

IMAGES = versions.random_images(8)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[servers.ServerProcess]:
    """A server that writes spans into its log, and waits a little so that requests share batches."""
    root = tmp_path_factory.mktemp("traces")
    versions.write_version(root / "repository")
    flags = ["--traces", "console", "--model-max-queue-delay", "0.3", "--model-max-batch-size", "4"]
    with servers.serving(root / "repository", root, *flags) as running:
        yield running


def spans(server: servers.ServerProcess, trace: str) -> list[dict[str, Any]]:
    """The spans of a trace, so far."""
    events = [event["span"] for event in server.log_events() if event["event"] == "span"]
    return [span for span in events if span["context"]["trace_id"] == f"0x{trace}"]


def await_spans(server: servers.ServerProcess, trace: str, *names: str) -> dict[str, dict[str, Any]]:
    """The spans of a trace by name, once all of these are there."""

    def found() -> dict[str, dict[str, Any]]:
        return {span["name"].rpartition("/")[2]: span for span in spans(server, trace)}

    waiting.until(lambda: found().keys() >= set(names))
    return found()


def classify(server: servers.ServerProcess, number: int, trace: str, count: int = 1) -> None:
    """Call by hand, with a trace context as a caller's library would send it."""
    with grpc.insecure_channel(server.target) as channel:
        metadata = (("traceparent", f"00-{trace}-{number:016x}-01"),)
        foreign.infer(channel, foreign.infer_request(IMAGES[:count]), metadata=metadata, timeout=30)


def test_a_request_has_a_span_and_a_time_in_the_queue_and_a_batch(server: servers.ServerProcess) -> None:
    """The server's span is the child of the caller's; queue and batch are children of the server's, in their order."""
    trace = "0af7651916cd43dd8448eb211c80319c"
    classify(server, 0xB7AD6B7169203331, trace, count=2)
    found = await_spans(server, trace, "ModelInfer", "queue", "batch")
    request, queue, batch = found["ModelInfer"], found["queue"], found["batch"]
    assert request["parent_id"] == "0xb7ad6b7169203331"
    assert request["kind"] == "SpanKind.SERVER"
    assert queue["parent_id"] == batch["parent_id"] == request["context"]["span_id"]
    assert [link["context"] for link in queue["links"]] == [_context(batch)]
    assert [link["context"] for link in batch["links"]] == [_context(request)]
    assert request["start_time"] <= queue["start_time"] <= queue["end_time"] == batch["start_time"]
    assert batch["start_time"] <= batch["end_time"] <= request["end_time"]
    attributes = request["attributes"]
    assert attributes["rpc.service"] == "open_inference"
    assert attributes["rpc.grpc.status_code"] == 0
    assert (attributes["convserve.model"], attributes["convserve.version"], attributes["convserve.rows"]) == (
        "stripes",
        1,
        2,
    )
    assert batch["attributes"]["convserve.batch.rows"] == 2
    assert batch["attributes"]["convserve.batch.release_reason"] in ("window", "idle")
    assert request["resource"]["attributes"]["service.name"] == "convserve"


def test_requests_that_share_a_batch_share_its_span(server: servers.ServerProcess) -> None:
    """The batch links to all of them, and the time of each in the queue links to the batch."""
    traces = [f"{number:032x}" for number in range(0xA1, 0xA5)]
    with ThreadPoolExecutor(4) as pool:  # four rows fill a batch
        list(pool.map(lambda trace: classify(server, 1, trace), traces))
    queues = [await_spans(server, trace, "ModelInfer", "queue") for trace in traces]
    batches = [span for trace in traces for span in spans(server, trace) if span["name"] == "batch"]
    linked = {link["context"]["span_id"]: batch for batch in batches for link in batch["links"]}
    for found in queues:
        batch = linked[found["ModelInfer"]["context"]["span_id"]]
        assert [link["context"] for link in found["queue"]["links"]] == [_context(batch)]
    assert sum(batch["attributes"]["convserve.batch.rows"] for batch in batches) == 4
    assert len(batches) < 4


def test_a_request_that_is_split_shows_each_of_its_batches(server: servers.ServerProcess) -> None:
    """Six images in batches of four: two batches, two times in the queue."""
    trace = "00000000000000000000000000000c01"
    classify(server, 1, trace, count=6)
    waiting.until(lambda: len(spans(server, trace)) == 5)
    names = sorted(span["name"] for span in spans(server, trace))
    assert names == ["batch", "batch", "open_inference/ModelInfer", "queue", "queue"]
    rows = [
        span["attributes"]["convserve.batch.request_rows"] for span in spans(server, trace) if span["name"] == "queue"
    ]
    assert sorted(rows) == [2, 4]


def test_a_request_that_fails_says_how(server: servers.ServerProcess) -> None:
    """What was the caller's fault is no error of the server's span."""
    trace = "00000000000000000000000000000d01"
    with grpc.insecure_channel(server.target) as channel, pytest.raises(grpc.RpcError):
        foreign.infer(
            channel,
            foreign.infer_request(IMAGES, "nothing"),
            metadata=(("traceparent", f"00-{trace}-{1:016x}-01"),),
            timeout=30,
        )
    request = await_spans(server, trace, "ModelInfer")["ModelInfer"]
    assert request["attributes"]["rpc.grpc.status_code"] == grpc.StatusCode.NOT_FOUND.value[0]
    assert request["status"]["status_code"] == "UNSET"


def test_what_the_caller_does_not_sample_is_not_traced(server: servers.ServerProcess) -> None:
    """The decision is the caller's, and travels. Health checks are nobody's."""
    silent, health = "00000000000000000000000000000e01", "00000000000000000000000000000e02"
    with grpc.insecure_channel(server.target) as channel:
        foreign.infer(
            channel,
            foreign.infer_request(IMAGES[:1]),
            metadata=(("traceparent", f"00-{silent}-{1:016x}-00"),),
            timeout=30,
        )
        metadata = (("traceparent", f"00-{health}-{1:016x}-01"),)
        for method in ("grpc.health.v1.Health/Check", f"{foreign.OIP}/ServerReady"):
            check: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(f"/{method}")
            check(b"", metadata=metadata, timeout=30)
    last = "00000000000000000000000000000e03"
    classify(server, 1, last)
    await_spans(server, last, "ModelInfer", "queue", "batch")  # spans are written in their order
    assert spans(server, silent) == spans(server, health) == []


@pytest.mark.parametrize(
    "metadata",
    [
        {"traceparent": "garbage"},
        {"traceparent": "00-" + "0" * 32 + "-" + "0" * 16 + "-01"},
        {"traceparent": "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"},
        {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "tracestate": "=," * 500},
        {"baggage": "do-not-log=;;," * 200},
        {"traceparent": "", "tracestate": "a=b", "b3": "x"},
    ],
)
def test_a_damaged_context_does_no_harm(server: servers.ServerProcess, metadata: dict[str, str]) -> None:
    """The request is answered, in a trace of its own if need be; nothing of it is repeated in the log."""
    with grpc.insecure_channel(server.target) as channel:
        foreign.infer(channel, foreign.infer_request(IMAGES[:1]), metadata=tuple(metadata.items()), timeout=30)
    assert "do-not-log" not in server.log


_APPLICATION = """
import sys
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
import numpy as np
from convserve import Client

trace.set_tracer_provider(TracerProvider())
with trace.get_tracer("application").start_as_current_span("work") as span, Client(sys.argv[1]) as client:
    client.classify(np.zeros((8, 8, 1), np.uint8), model="stripes")
    context = span.get_span_context()
    print(f"{context.trace_id:032x} {context.span_id:016x}")
"""


def test_a_trace_begins_in_the_application_and_goes_on_in_the_server(server: servers.ServerProcess) -> None:
    """An application in a process of its own, with nothing but the client and its own tracer."""
    done = subprocess.run(
        [sys.executable, "-c", _APPLICATION, server.target], capture_output=True, text=True, timeout=60, check=True
    )
    trace, span = done.stdout.split()
    found = await_spans(server, trace, "Classify", "queue", "batch")
    assert found["Classify"]["parent_id"] == f"0x{span}"


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """Keeps what it is sent."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def Export(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Take spans."""
        for resource in request.resource_spans:
            for scope in resource.scope_spans:
                self.names += [span.name for span in scope.spans]
        return trace_service_pb2.ExportTraceServiceResponse()


def test_spans_go_to_a_collector(repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By OTLP, where OpenTelemetry's own variable says; what is left is sent before the server ends."""
    collector = Collector()
    receiver = grpc.server(ThreadPoolExecutor(2))
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(collector, receiver)  # type: ignore[no-untyped-call]
    port = receiver.add_insecure_port("127.0.0.1:0")
    receiver.start()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{port}")
    try:
        with servers.serving(repository, tmp_path, "--traces", "otlp") as running:
            with Client(running.target) as client:
                client.classify(IMAGES[0], model="stripes")
            assert running.stop() == 0
        assert sorted(collector.names) == ["batch", "convserve.v1/Classify", "queue"]
    finally:
        receiver.stop(grace=None).wait()


def test_a_collector_that_is_away_holds_nobody_up(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Requests are answered, and the server ends in time."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    with servers.serving(repository, tmp_path, "--traces", "otlp") as running:
        with Client(running.target) as client:
            assert client.classify(IMAGES[0], model="stripes").label in versions.LABELS
        assert running.stop(timeout=20) == 0


_WITHOUT = """
import sys
for name in list(sys.modules):
    assert not name.startswith("opentelemetry")
sys.modules["opentelemetry"] = None
from convserve.config import Settings
from convserve.host import inspect, plan
from convserve.server.app import Server
server = Server(Settings(port=0, http_port=0, traces=sys.argv[1]), plan(inspect(), 1, 1))
try:
    server.start()
except Exception as error:
    print(type(error).__name__, error)
server.stop()
assert not [name for name in sys.modules if name.startswith("opentelemetry.")]
"""


def test_a_variable_that_makes_no_sense_ends_the_start(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a sentence; OpenTelemetry raises whatever its reading raises."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://[bad")
    ended = servers.run_to_end(repository, "--traces", "otlp")
    assert ended.returncode == 1
    assert "a variable OTEL_... holds what OpenTelemetry cannot read: Invalid IPv6 URL" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_without_the_extra_the_error_names_it(tmp_path: Path) -> None:
    """And as long as traces are off, nothing of OpenTelemetry is imported."""
    for traces, words in (("otlp", "RuntimeNotInstalledError traces are on"), ("off", "ConfigError model_repository")):
        done = subprocess.run(
            [sys.executable, "-c", _WITHOUT, traces],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
            cwd=tmp_path,
        )
        assert f"\n{words}" in f"\n{done.stdout}", done.stdout
        assert ("convserve[otel]" in done.stdout) == (traces == "otlp")


def _context(span: dict[str, Any]) -> dict[str, Any]:
    return dict(span["context"])


def test_lines_of_the_log_stay_json(server: servers.ServerProcess) -> None:
    """Spans in the log are lines among the others."""
    assert all(isinstance(json.loads(line), dict) for line in server.log.splitlines())


def test_the_access_log_names_the_trace(server: servers.ServerProcess) -> None:
    """From a line of the log to the trace."""
    with Client(server.target) as client, pytest.raises(ConvserveError):
        client.classify(IMAGES[0], model="nothing")
    waiting.until(lambda: any(event["event"] == "request" for event in server.log_events()))
    line = next(event for event in server.log_events() if event["event"] == "request")
    assert spans(server, line["trace_id"])
