"""A real server process, from start to drain."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from convserve import manifest as m
from convserve.v1 import classification_pb2 as pb
from convserve.v1 import classification_pb2_grpc as rpc
from convserve.v1 import error_details_pb2 as details_pb
from convserve.v1 import model_pb2, model_pb2_grpc
from support import versions
from support.server import ServerProcess, run_to_end, serving
from support.waiting import until


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    root = tmp_path_factory.mktemp("served")
    versions.write_version(root / "repository")
    with serving(root / "repository", root) as running:
        yield running


@pytest.fixture(scope="module")
def channel(server: ServerProcess) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(server.target) as made:
        yield made


@pytest.fixture(scope="module")
def stub(channel: grpc.Channel) -> rpc.ClassificationServiceStub:
    return rpc.ClassificationServiceStub(channel)


def packed(images: np.ndarray) -> pb.PackedImages:
    return pb.PackedImages(data=images.tobytes(), shape=images.shape)


def test_answers_are_the_models(stub: rpc.ClassificationServiceStub) -> None:
    """Every image gets its own answer, in order, however many batches it takes."""
    images = versions.random_images(150, seed=3)
    response = stub.Classify(pb.ClassifyRequest(model="stripes", packed=packed(images), top_k=9, explain=True))
    expected = versions.reference(images)
    assert len(response.results) == 150
    for result, row in zip(response.results, expected, strict=True):
        order = np.argsort(-row, kind="stable")
        assert [one.index for one in result.predictions] == order.tolist()
        assert [one.label for one in result.predictions] == [versions.LABELS[index] for index in order]
        assert [one.probability for one in result.predictions] == pytest.approx(row[order], abs=1e-6)
    assert (response.model, response.model_version) == ("stripes", 1)
    assert [batch.request_rows for batch in response.batches] == [64, 64, 22]
    for batch in response.batches:
        assert batch.provider == "CPUExecutionProvider"
        assert batch.variant == "fp32"
        assert batch.run_seconds > 0
        assert batch.queue_seconds >= 0


def test_one_class_by_default(stub: rpc.ClassificationServiceStub) -> None:
    """top_k 0 means one, and nothing is explained unless asked."""
    response = stub.Classify(pb.ClassifyRequest(model="stripes", packed=packed(versions.random_images(1))))
    assert len(response.results[0].predictions) == 1
    assert not response.batches


def test_concurrent_callers_get_their_own_answers(stub: rpc.ClassificationServiceStub) -> None:
    """Rows of many requests share batches and never change places."""
    images = [versions.random_images(1 + index % 5, seed=index) for index in range(200)]
    futures = [stub.Classify.future(pb.ClassifyRequest(model="stripes", packed=packed(one))) for one in images]
    for one, future in zip(images, futures, strict=True):
        expected = versions.reference(one)
        got = [(result.predictions[0].index, result.predictions[0].probability) for result in future.result().results]
        assert [index for index, _ in got] == expected.argmax(1).tolist()
        assert [value for _, value in got] == pytest.approx(expected.max(1), abs=1e-6)


GOOD = versions.random_images(1)


@pytest.mark.parametrize(
    ("request_", "code", "field", "message"),
    [
        (pb.ClassifyRequest(packed=packed(GOOD)), "INVALID_ARGUMENT", "model", "is empty"),
        (pb.ClassifyRequest(model="stripes"), "INVALID_ARGUMENT", "input", "is missing"),
        (
            pb.ClassifyRequest(model="stripes", packed=pb.PackedImages(data=b"abc", shape=[1, 8, 8, 1])),
            "INVALID_ARGUMENT",
            "packed.data",
            "3 bytes came; shape [1, 8, 8, 1] takes 64",
        ),
        (
            pb.ClassifyRequest(model="stripes", packed=pb.PackedImages(data=b"", shape=[0, 8, 8, 1])),
            "INVALID_ARGUMENT",
            "packed.shape",
            "each at least 1",
        ),
        (
            pb.ClassifyRequest(model="stripes", packed=pb.PackedImages(data=b"a", shape=[2**62, 2**62, 4, 1])),
            "INVALID_ARGUMENT",
            "packed.data",
            "1 bytes came",
        ),
        (
            pb.ClassifyRequest(model="stripes", packed=pb.PackedImages(data=b"a" * 64, shape=[-1, 8, -8, 1])),
            "INVALID_ARGUMENT",
            "packed.shape",
            "each at least 1",
        ),
        (
            pb.ClassifyRequest(model="stripes", packed=packed(np.zeros((1, 7, 8, 1), np.uint8))),
            "INVALID_ARGUMENT",
            "packed.shape",
            "images are 7×8×1; stripes version 1 takes 8×8×1",
        ),
        (
            pb.ClassifyRequest(model="stripes", packed=packed(np.zeros((1025, 8, 8, 1), np.uint8))),
            "INVALID_ARGUMENT",
            "packed.shape",
            "1025 images came; one request takes 1 to 1024",
        ),
        (
            pb.ClassifyRequest(model="stripes", encoded=pb.EncodedImages()),
            "INVALID_ARGUMENT",
            "encoded.images",
            "0 images came",
        ),
        (
            pb.ClassifyRequest(model="stripes", encoded=pb.EncodedImages(images=[b"not an image"])),
            "INVALID_ARGUMENT",
            "encoded.images[0]",
            "",
        ),
        (
            pb.ClassifyRequest(model="stripes", packed=packed(GOOD), version=-1),
            "INVALID_ARGUMENT",
            "version",
            "-1 came",
        ),
        (pb.ClassifyRequest(model="stripes", packed=packed(GOOD), priority=77), "INVALID_ARGUMENT", "priority", "77"),  # type: ignore[arg-type]
        (pb.ClassifyRequest(model="other", packed=packed(GOOD)), "NOT_FOUND", "", "the models here are: stripes"),
        (pb.ClassifyRequest(model="stripes", packed=packed(GOOD), version=9), "NOT_FOUND", "", "its versions are: 1"),
    ],
)
def test_bad_requests_are_explained(
    stub: rpc.ClassificationServiceStub, request_: pb.ClassifyRequest, code: str, field: str, message: str
) -> None:
    """Status, sentence, field violation and request id."""
    with pytest.raises(grpc.RpcError) as refused:
        stub.Classify(request_, metadata=(("x-request-id", "my-id"),))
    error = refused.value
    assert error.code().name == code
    assert message in str(error.details())
    trailers: dict[str, Any] = dict(error.trailing_metadata())  # type: ignore[arg-type]
    assert trailers["x-request-id"] == "my-id"
    if field:
        status = details_pb.ErrorStatus.FromString(trailers["grpc-status-details-bin"])
        violation = details_pb.BadRequest.FromString(status.details[0].value).field_violations[0]
        assert status.details[0].type_url == "type.googleapis.com/google.rpc.BadRequest"
        assert violation.field == field


def test_one_bad_image_fails_its_request_only(stub: rpc.ClassificationServiceStub) -> None:
    """Requests that travel at the same time are not hurt."""
    good = [
        stub.Classify.future(pb.ClassifyRequest(model="stripes", packed=packed(versions.random_images(1, seed=seed))))
        for seed in range(50)
    ]
    bad = stub.Classify.future(pb.ClassifyRequest(model="stripes", encoded=pb.EncodedImages(images=[b"\x89PNG\r\n"])))
    assert all(len(future.result().results) == 1 for future in good)
    assert bad.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_models_are_listed(channel: grpc.Channel) -> None:
    """With state, digest, shape, labels and figures."""
    models = model_pb2_grpc.ModelServiceStub(channel)
    (model,) = models.ListModels(model_pb2.ListModelsRequest()).models
    assert (model.name, model.default_version) == ("stripes", 1)
    (version,) = model.versions
    assert version.state == model_pb2.VERSION_STATE_AVAILABLE
    assert list(version.input_shape) == [8, 8, 1]
    assert list(version.labels) == versions.LABELS
    assert version.metrics["accuracy"] == 1.0
    assert len(version.digest) == 64
    assert models.GetModel(model_pb2.GetModelRequest(name="stripes")).model == model
    with pytest.raises(grpc.RpcError) as refused:
        models.GetModel(model_pb2.GetModelRequest(name="other"))
    assert refused.value.code() is grpc.StatusCode.NOT_FOUND


def test_health_and_reflection(channel: grpc.Channel) -> None:
    """Overall, liveness, readiness, each service and each model; and a list of services."""
    health = health_pb2_grpc.HealthStub(channel)
    for name in ("", "liveness", "readiness", "convserve.v1.ClassificationService", "stripes"):
        answer = health.Check(health_pb2.HealthCheckRequest(service=name))
        assert answer.status == health_pb2.HealthCheckResponse.SERVING, name
    reflection = reflection_pb2_grpc.ServerReflectionStub(channel)
    (listed,) = reflection.ServerReflectionInfo(iter([reflection_pb2.ServerReflectionRequest(list_services="")]))
    assert {service.name for service in listed.list_services_response.service} >= {
        "convserve.v1.ClassificationService",
        "convserve.v1.ModelService",
        "grpc.health.v1.Health",
    }


def test_http(server: ServerProcess) -> None:
    """Probes and metrics."""
    assert server.http("/livez") == (200, "ok\n")
    assert server.http("/readyz") == (200, "ok\n")
    assert server.http("/other")[0] == 404
    assert server.metric("convserve_versions", model="stripes", state="available") == 1
    assert server.metric("convserve_build_info") == 1


def test_metrics_count_what_happened(server: ServerProcess, stub: rpc.ClassificationServiceStub) -> None:
    """Requests by code, rows, batches; and no label that a caller made up."""

    def read() -> tuple[float, ...]:
        return (
            server.metric("convserve_requests_total", method="Classify", model="stripes", code="OK"),
            server.metric("convserve_rows_total", model="stripes", version="1"),
            server.metric("convserve_predictions_total", model="stripes"),
            server.metric("convserve_requests_total", method="Classify", code="NOT_FOUND"),
        )

    before = read()
    stub.Classify(pb.ClassifyRequest(model="stripes", packed=packed(versions.random_images(5))))
    with pytest.raises(grpc.RpcError):
        stub.Classify(pb.ClassifyRequest(model="made-up-name", packed=packed(GOOD)))
    # A request is counted once its reply has left.
    until(lambda: tuple(after - was for after, was in zip(read(), before, strict=True)) == (1, 5, 5, 1))
    assert "made-up-name" not in server.http("/metrics")[1]


def test_a_taken_port_is_a_clear_error(server: ServerProcess, repository: Path) -> None:
    """It names the setting and the address, and the exit status is 1."""
    for flag, port in (("--port", server.ready["grpc_port"]), ("--http-port", server.ready["http_port"])):
        ended = run_to_end(repository, flag, str(port))
        assert ended.returncode == 1
        assert f"cannot listen on 127.0.0.1:{port}" in ended.stderr
        assert not ended.stdout


def test_a_wrong_flag_value_is_a_usage_error(repository: Path) -> None:
    """Exit status 2 and a sentence."""
    ended = run_to_end(repository, "--model-max-batch-size", "0")
    assert (ended.returncode, ended.stdout) == (2, "")
    assert "--model-max-batch-size is '0'" in ended.stderr


def test_settings_for_a_model_that_is_not_there_are_told_of(repository: Path, tmp_path: Path) -> None:
    """Once, however many workers there are: most often a typing error, but the model may come later."""
    file = tmp_path / "convserve.toml"
    file.write_text("[models.stripes]\nmax_batch_size = 8\n[models.strypes]\nmax_batch_size = 8\n")
    with serving(repository, tmp_path, "--config", str(file), "--workers", "2") as server:
        told = [event for event in server.log_events() if "not in the repository" in event["event"]]
        assert [(event["level"], event["model"], event["models"]) for event in told] == [
            ("warning", "strypes", ["stripes"])
        ]


@pytest.mark.parametrize("missing", ["nowhere", ""])
def test_a_missing_or_empty_repository_is_a_clear_error(tmp_path: Path, missing: str) -> None:
    """It names the path and what should be there."""
    ended = run_to_end(tmp_path / missing)
    assert ended.returncode == 1
    assert str(tmp_path / missing) in ended.stderr
    assert "model_repository" in ended.stderr


def test_a_policy_that_wants_no_version_is_a_clear_error(repository: Path) -> None:
    """The versions are there, and the message says what leaves them out."""
    ended = run_to_end(repository, "--model-version-policy", "specific:7")
    assert ended.returncode == 1
    assert "no version in it is both wanted, by version_policy, and proved" in ended.stderr


@pytest.mark.parametrize("name", [m.ONNX_FILE, m.GOLDEN_FILE])
def test_an_altered_byte_is_never_served(repository: Path, name: str) -> None:
    """The message says which file and why."""
    path = repository / "stripes/1" / name
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    ended = run_to_end(repository)
    assert ended.returncode == 1
    assert f"{name}: SHA-256 is" in ended.stderr
    assert not ended.stdout


def test_a_model_that_answers_otherwise_is_never_served(repository: Path) -> None:
    """Exchanged weights with a matching digest fail at the golden vectors."""
    (repository / "stripes/1" / m.ONNX_FILE).write_bytes(versions.onnx_bytes(seed=9))
    versions.seal(repository / "stripes/1")
    ended = run_to_end(repository)
    assert ended.returncode == 1
    assert "golden.npz: replayed on CPUExecutionProvider" in ended.stderr


def test_a_good_model_is_served_beside_a_failed_one(tmp_path: Path) -> None:
    """With exit_on_error off, the failed one is listed with its reason."""
    good = versions.write_version(tmp_path / "repository", "good")
    bad = versions.write_version(tmp_path / "repository", "bad")
    (bad / m.ONNX_FILE).write_bytes(b"")
    assert good.is_dir()
    with serving(tmp_path / "repository", tmp_path, "--exit-on-error", "false") as server:
        assert server.ready["models"] == ["good"]
        with grpc.insecure_channel(server.target) as channel:
            models = {
                one.name: one
                for one in model_pb2_grpc.ModelServiceStub(channel).ListModels(model_pb2.ListModelsRequest()).models
            }
            assert models["bad"].versions[0].state == model_pb2.VERSION_STATE_FAILED
            assert "model.onnx: SHA-256" in models["bad"].versions[0].reason
            with pytest.raises(grpc.RpcError) as refused:
                rpc.ClassificationServiceStub(channel).Classify(pb.ClassifyRequest(model="bad", packed=packed(GOOD)))
            assert refused.value.code() is grpc.StatusCode.FAILED_PRECONDITION
        assert server.metric("convserve_version_load_failures_total", model="bad") == 1


def test_sigterm_drains(repository: Path, tmp_path: Path) -> None:
    """Accepted requests are answered, the exit status is 0, and the log tells the order."""
    with serving(repository, tmp_path) as server, grpc.insecure_channel(server.target) as channel:
        stub = rpc.ClassificationServiceStub(channel)
        answered: list[int] = []
        refused: list[grpc.StatusCode] = []
        started = threading.Event()

        def call() -> None:
            for index in range(100_000):
                try:
                    stub.Classify(pb.ClassifyRequest(model="stripes", packed=packed(GOOD)), timeout=10)
                except grpc.RpcError as error:
                    refused.append(error.code())
                    return
                answered.append(index)
                started.set()

        callers = [threading.Thread(target=call) for _ in range(4)]
        for caller in callers:
            caller.start()
        assert started.wait(10)
        assert server.stop() == 0
        for caller in callers:
            caller.join()
        assert answered
        assert set(refused) == {grpc.StatusCode.UNAVAILABLE}
        own = [event["event"] for event in server.log_events() if event["event"] != "request"]
        assert own[-4:] == [
            "stopping",
            "drained",
            "version unloaded",
            "stopped",
        ]
        (drained,) = (event for event in server.log_events() if event["event"] == "drained")
        assert drained["requests_cut"] == 0


def test_sigint_ends_it_too(repository: Path, tmp_path: Path) -> None:
    """Ctrl-C in a terminal is a drain."""
    with serving(repository, tmp_path) as server:
        server.process.send_signal(signal.SIGINT)
        assert server.process.wait(20) == 0


def test_a_second_server_does_not_share_the_port_silently(repository: Path, tmp_path: Path) -> None:
    """SO_REUSEPORT is off."""
    with serving(repository, tmp_path) as server, socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        with pytest.raises(OSError, match="in use"):
            other.bind(("127.0.0.1", server.ready["grpc_port"]))


def test_the_ready_line_is_all_of_stdout(repository: Path, tmp_path: Path) -> None:
    """One JSON line, as scripts expect; logs go to stderr."""
    with serving(repository, tmp_path) as server:
        assert set(server.ready) == {"event", "grpc_port", "http_port", "models"}
        assert server.ready["event"] == "serving"
        server.stop()
        assert server.process.stdout is not None
        assert server.process.stdout.read() == ""
        assert json.loads(server.log.splitlines()[0])["level"] == "info"


def test_the_repository_may_disappear_while_serving(repository: Path, tmp_path: Path) -> None:
    """What is loaded stays loaded."""
    with serving(repository, tmp_path) as server, grpc.insecure_channel(server.target) as channel:
        shutil.rmtree(repository)
        stub = rpc.ClassificationServiceStub(channel)
        assert stub.Classify(pb.ClassifyRequest(model="stripes", packed=packed(GOOD))).model_version == 1
