"""The load tester against real servers, as a command."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from convserve.loadtest.http2 import Reply, frame_message
from convserve.loadtest.link import Link, Target
from convserve.v1 import classification_pb2 as pb
from convserve.v1 import model_pb2
from support import versions
from support.certificates import Authority
from support.fake_server import FakeServer, refuse, running
from support.server import ServerProcess, serving

CLASSIFY = "/convserve.v1.ClassificationService/Classify"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    root = tmp_path_factory.mktemp("loadtest")
    versions.write_version(root / "repository")
    with serving(root / "repository", root) as started:
        yield started


def loadtest(target: str, *flags: str) -> tuple[int, dict[str, Any], str]:
    """Run the command. Returns exit status, its JSON and stderr."""
    command = [sys.executable, "-m", "convserve", "loadtest", "--target", target, "--model", "stripes", "--json"]
    command += ["--warmup", "0.2", "--duration", "1", "--samples", "32", *flags]
    done = subprocess.run(command, capture_output=True, text=True, timeout=90, check=False)
    return done.returncode, json.loads(done.stdout) if done.stdout else {}, done.stderr


def only_run(found: dict[str, Any]) -> dict[str, Any]:
    (run,) = found["runs"]
    assert isinstance(run, dict)
    return run


def real_failures(found: dict[str, Any]) -> list[str]:
    """Problems other than a client short of processor time, which a busy test machine cannot promise."""
    return [text for text in found["problems"] if not text.startswith("invalid")]


@pytest.mark.parametrize("dialect", ["native", "oip"])
@pytest.mark.parametrize("form", ["packed", "encoded"])
def test_every_request_is_answered_and_right(server: ServerProcess, dialect: str, form: str) -> None:
    """Both dialects, pixels and files, a mix of batch sizes, two processes."""
    flags = ["--dialect", dialect, "--form", form, "--rate", "60", "--batch", "1:3,5:1", "--processes", "2"]
    _, found, _ = loadtest(server.target, *flags)
    run = only_run(found)
    assert set(run["statuses"]) == {"OK"}
    assert 30 < run["statuses"]["OK"] < 100
    assert run["answers"]["rows"] > 60
    assert run["answers"]["wrong"] == 0
    assert real_failures(found) == []
    assert found["conditions"]["answers_that_differ_from_the_next"] > 0.9
    assert {"queue", "run"} <= set(run["server_seconds"])


@pytest.mark.parametrize("scenario", ["single-stream", "multi-stream", "closed", "ramp", "spike"])
def test_every_scenario_runs(server: ServerProcess, scenario: str) -> None:
    """To its end, with requests that were counted."""
    load = ["--rate", "40"] if scenario in {"ramp", "spike"} else ["--in-flight", "3"]
    _, found, _ = loadtest(server.target, "--scenario", scenario, *load)
    run = only_run(found)
    assert run["requests"] >= 10
    assert set(run["statuses"]) == {"OK"}
    if scenario == "multi-stream":
        assert run["images_per_second"] == pytest.approx(8 * run["requests_per_second"])


def test_offline_sends_as_many_images_as_mlperf_asks_for(server: ServerProcess) -> None:
    """24,576, whatever the time."""
    _, found, _ = loadtest(server.target, "--scenario", "offline", "--check", "none")
    run = only_run(found)
    assert run["requests"] * 64 == 24_576
    assert run["images_per_second"] == pytest.approx(24_576 / run["measured_seconds"])


def test_an_slo_decides_the_exit_status(server: ServerProcess) -> None:
    """A bound of a minute is kept, one of a microsecond is not."""
    _, kept, _ = loadtest(server.target, "--rate", "30", "--slo", "p50=60s")
    assert only_run(kept)["slo"][0]["met"]
    assert real_failures(kept) == []
    status, missed, stderr = loadtest(server.target, "--rate", "30", "--slo", "p50=1us")
    assert status == 1
    assert "SLO p50=0.001ms was missed" in stderr
    assert real_failures(missed) != []


def test_a_report_needs_nothing_else(server: ServerProcess, tmp_path: Path) -> None:
    """One file: no scripts, no pictures or styles from elsewhere; the throughput curve of a sweep is in it."""
    report = tmp_path / "report.html"
    _, found, _ = loadtest(server.target, "--sweep", "20,40", "--report", str(report))
    assert [run["offered_requests_per_second"] for run in found["runs"]] == [20, 40]
    text = report.read_text()
    for part in ("<svg", "Latency by throughput", "Latency by percentile", "Requests by status", "Conditions"):
        assert part in text
    assert "<script" not in text
    assert " src=" not in text
    assert "<link" not in text


def test_a_report_that_cannot_be_written_takes_nothing_away(server: ServerProcess, tmp_path: Path) -> None:
    """What was measured is told all the same."""
    status, found, stderr = loadtest(server.target, "--rate", "20", "--report", str(tmp_path / "no/such/r.html"))
    assert (status, only_run(found)["statuses"].keys()) == (1, {"OK"})
    assert "cannot be written" in stderr


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Child processes take SIGINT, also where the tests were started in a shell's background, which ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize("flags", [["--sweep", "20,21,22,23"], ["--slo", "p50=60s"]], ids=["sweep", "search"])
def test_ctrl_c_keeps_what_was_measured(server: ServerProcess, tmp_path: Path, flags: list[str]) -> None:
    """Runs that are over are told and reported; the exit status is that of an interruption."""
    command = [sys.executable, "-m", "convserve", "loadtest", "--target", server.target, "--model", "stripes", "--json"]
    command += ["--warmup", "0.1", "--duration", "1", "--samples", "4", "--report", str(tmp_path / "report.html")]
    with subprocess.Popen([*command, *flags], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        lines = iter(process.stderr.readline, "")
        assert any(" requests/s: " in line for line in lines)
        process.send_signal(signal.SIGINT)
        found, last = json.loads(process.stdout.read()), process.stderr.read()
    assert process.returncode == 130
    assert (len(found["runs"]) >= 1, found["highest_rate"]) == (True, None)
    assert "run(s): interrupted" in found["problems"][-1]
    assert (found["problems"][-1] in last, "Traceback" in last) == (True, False)
    assert "run(s): interrupted" in (tmp_path / "report.html").read_text()


def test_a_sweep_whose_server_goes_keeps_what_was_measured() -> None:
    """The runs before are told, then what happened."""
    with running() as fake:
        version = model_pb2.ModelVersion(version=4, input_shape=[1, 1, 1], labels=[str(n) for n in range(256)])
        fake.models = [model_pb2.Model(name="stripes", versions=[version])]
        command = [sys.executable, "-m", "convserve", "loadtest", "--target", fake.target, "--model", "stripes"]
        command += ["--json", "--warmup", "0.1", "--duration", "1", "--samples", "4", "--sweep", "20,21,22"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert process.stderr is not None
        assert any("20 requests/s: " in line for line in iter(process.stderr.readline, ""))
    out, last = process.communicate(timeout=60)
    found = json.loads(out)
    assert (process.returncode, "Traceback" in last) == (1, False)
    assert found["runs"][0]["statuses"] == {"OK": found["runs"][0]["requests"]}
    assert "cannot be reached" in found["problems"][-1]


def test_a_dead_target_is_a_sentence() -> None:
    """No traceback, exit status 1."""
    status, _, stderr = loadtest("127.0.0.1:1", "--rate", "1", "--timeout", "2")
    assert status == 1
    assert "the server does not answer" in stderr
    assert "Traceback" not in stderr


def test_a_model_that_is_not_there_is_a_sentence(server: ServerProcess) -> None:
    """The server's own words."""
    status, _, stderr = loadtest(server.target, "--rate", "1", "--model", "nothing")
    assert (status, "nothing" in stderr, "Traceback" in stderr) == (1, True, False)


@pytest.fixture
def fake() -> Iterator[FakeServer]:
    """A server of this process; it classifies an image as its first byte."""
    with running() as started:
        version = model_pb2.ModelVersion(version=4, input_shape=[1, 1, 1], labels=[str(n) for n in range(256)])
        started.models = [model_pb2.Model(name="stripes", versions=[version])]
        yield started


def test_mixed_up_answers_fail_the_run(fake: FakeServer) -> None:
    """A server that swaps the rows of a request, once it is under load: every single answer is one it could give."""

    def swap(request: pb.ClassifyRequest, context: Any) -> None:
        if request.packed.shape and request.packed.shape[0] == 2:
            request.packed.data = request.packed.data[::-1]

    fake.before = swap
    status, found, stderr = loadtest(fake.target, "--rate", "20", "--batch", "2")
    run = only_run(found)
    assert status == 1
    assert run["answers"]["wrong"] > run["answers"]["rows"] / 2
    assert "answers were wrong; first: class" in stderr


def test_refusals_are_counted_by_status(fake: FakeServer) -> None:
    """With the first text of each."""

    def full(request: pb.ClassifyRequest, context: Any) -> None:
        if len(fake.requests) % 2:
            import grpc

            refuse(context, grpc.StatusCode.RESOURCE_EXHAUSTED, "the queue is full")

    fake.before = full
    _, found, _ = loadtest(fake.target, "--rate", "40", "--check", "none", "--slo", "p50=60s")
    run = only_run(found)
    assert run["statuses"]["RESOURCE_EXHAUSTED"] > 5
    assert run["statuses"]["OK"] > 5
    assert run["first_error_texts"]["RESOURCE_EXHAUSTED"] == "the queue is full"


def test_a_server_that_answers_nothing_fails_the_run(fake: FakeServer) -> None:
    """Also one without a promise; and labels that nobody has cannot be right."""

    def gone(request: pb.ClassifyRequest, context: Any) -> None:
        import grpc

        refuse(context, grpc.StatusCode.UNAVAILABLE, "moved away")

    fake.before = gone
    status, found, _ = loadtest(fake.target, "--rate", "20", "--check", "none")
    assert status == 1
    assert any("requests was answered; UNAVAILABLE: moved away" in text for text in found["problems"])
    status, _, stderr = loadtest(fake.target, "--rate", "20", "--check", "none", "--min-accuracy", "0.9")
    assert status != 0
    assert "min-accuracy: synthetic has no labels" in stderr


def test_connections_that_grow_old_are_replaced_without_loss(
    tmp_path: Path,
) -> None:
    """The server ends connections after half a second; not one request notices."""
    versions.write_version(tmp_path / "repository")
    with serving(tmp_path / "repository", tmp_path, "--limits-max-connection-age", "0.5") as server:
        _, found, _ = loadtest(server.target, "--rate", "60", "--duration", "3", "--scenario", "constant")
    run = only_run(found)
    assert run["statuses"] == {"OK": run["requests"]}
    assert run["requests"] == pytest.approx(180, abs=2)


def test_a_server_that_asks_for_everything_is_reached(tmp_path: Path) -> None:
    """TLS with an authority of one's own, a client's certificate, and a token; without it, nothing. So do plans."""
    authority = Authority("ours")
    cert, key = authority.sign("server").write(tmp_path / "tls", "server")
    own_cert, own_key = authority.sign("client").write(tmp_path / "tls", "client")
    ca, tokens = tmp_path / "ca.pem", tmp_path / "tokens"
    ca.write_bytes(authority.cert)
    tokens.write_text("a-token-of-some-length-0123456789\n")
    versions.write_version(tmp_path / "repository")
    flags = ["--tls-cert-file", str(cert), "--tls-key-file", str(key), "--tls-client-ca-file", str(ca)]
    flags += ["--auth-inference-tokens-file", str(tokens), "--auth-metadata-tokens-file", str(tokens)]
    with serving(tmp_path / "repository", tmp_path, *flags) as server:
        secure = ["--tls-ca", str(ca), "--tls-cert", str(own_cert), "--tls-key", str(own_key), "--rate", "30"]
        _, found, _ = loadtest(server.target, *secure, "--token-file", str(tokens))
        command = [sys.executable, "-m", "convserve", "plan", "--target", server.target, "--model", "stripes", *secure]
        command += ["--token-file", str(tokens), "--slo", "p99=60s", "--duration", "0.3", "--json"]
        planned = subprocess.run(command, capture_output=True, text=True, timeout=90, check=False)
        status, _, stderr = loadtest(server.target, *secure)
    assert set(only_run(found)["statuses"]) == {"OK"}
    assert found["conditions"]["tls"] is True
    assert planned.returncode == 0, planned.stderr
    assert json.loads(planned.stdout)["replicas"] >= 1
    assert (status, "UNAUTHENTICATED" in stderr, "Traceback" in stderr) == (1, True, False)


def test_large_messages_pass(fake: FakeServer) -> None:
    """Larger than any window and frame, in both directions."""
    link = Link(Target(*_host_port(fake.target), timeout=60), CLASSIFY)
    pixels = np.random.default_rng(0).integers(0, 256, 300_000, dtype=np.uint8)
    packed = pb.PackedImages(data=pixels.tobytes(), shape=[len(pixels), 1, 1, 1])
    message = pb.ClassifyRequest(model="m", packed=packed).SerializeToString()
    replies = call(link, frame_message(message))
    answer = pb.ClassifyResponse.FromString(replies[0].message)
    assert [result.predictions[0].index for result in answer.results] == pixels.tolist()
    link.close()


def call(link: Link, framed: bytes) -> list[Reply]:
    """Send one request and wait for its end."""
    from convserve.loadtest.process import wait

    link.send(framed)
    replies: list[Reply] = []
    give_up = time.monotonic() + 60
    while not replies:
        assert time.monotonic() < give_up
        replies += link.flush()
        if wait([link], [link] if link.unsent else [], 0.1):
            replies += link.receive()
    return replies


def _host_port(target: str) -> tuple[str, int]:
    host, _, port = target.rpartition(":")
    return host, int(port)
