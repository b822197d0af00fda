"""The Open Inference Protocol, spoken by a real server process."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import numpy.typing as npt
import pytest
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from PIL import Image

import convserve
from convserve.open_inference.v2 import infer_pb2
from convserve.v1 import classification_pb2, classification_pb2_grpc
from support import versions
from support.foreign import OIP, bytes_request, call, infer, infer_request, oip, output, strings, typed_request
from support.server import ServerProcess, serving
from support.waiting import until

IMAGES = versions.random_images(5, seed=7)
EXPECTED = versions.reference(IMAGES)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    root = tmp_path_factory.mktemp("served")
    versions.write_version(root / "repository")
    versions.write_version(root / "repository", version=2, seed=5)
    config = root / "config.toml"
    config.write_text('admin_methods = true\n[model]\nversion_policy = "all"\naliases = { stable = 1, canary = 2 }\n')
    with serving(root / "repository", root, "--config", str(config)) as running:
        yield running


@pytest.fixture(scope="module")
def channel(server: ServerProcess) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(server.target) as made:
        yield made


def refused(channel: grpc.Channel, request: Any, **options: Any) -> grpc.RpcError:
    with pytest.raises(grpc.RpcError) as caught:
        infer(channel, request, **options)
    return caught.value


def test_live_ready_and_metadata(channel: grpc.Channel) -> None:
    """What Triton's and KServe's clients ask first."""
    assert oip(channel, "ServerLive").live
    assert oip(channel, "ServerReady").ready
    metadata = oip(channel, "ServerMetadata")
    assert (metadata.name, metadata.version) == ("convserve", convserve.__version__)
    assert {"classification", "statistics", "model_repository"} <= set(metadata.extensions)


def test_model_ready(channel: grpc.Channel) -> None:
    """Number, alias, or whichever answers; what does not exist is not ready."""
    ready = {version: oip(channel, "ModelReady", name="stripes", version=version).ready for version in ("", "2", "9")}
    assert ready == {"": True, "2": True, "9": False}
    assert oip(channel, "ModelReady", name="stripes", version="canary").ready
    assert not oip(channel, "ModelReady", name="other").ready


def test_no_model_is_ready_while_the_server_drains(tmp_path: Path) -> None:
    """As health checks of the model say: a load balancer that asks for models must look elsewhere too."""
    versions.write_version(tmp_path / "repository")
    with (
        serving(tmp_path / "repository", tmp_path, "--drain-delay", "5") as server,
        grpc.insecure_channel(server.target) as channel,
    ):
        assert oip(channel, "ModelReady", name="stripes").ready
        server.process.terminate()
        until(lambda: not oip(channel, "ServerReady").ready)
        assert oip(channel, "ServerLive").live
        assert not oip(channel, "ModelReady", name="stripes").ready
        infer(channel, infer_request(IMAGES[:1]))  # who comes nevertheless is answered


def test_model_metadata(channel: grpc.Channel) -> None:
    """Inputs, outputs, versions, platform, and the rule for pixels."""
    metadata = oip(channel, "ModelMetadata", name="stripes")
    assert (metadata.name, list(metadata.versions), metadata.platform) == ("stripes", ["2", "1"], "onnxruntime_onnx")
    (tensor,) = metadata.inputs
    assert (tensor.name, tensor.datatype, list(tensor.shape)) == ("image", "UINT8", [-1, 8, 8, 1])
    outputs = [(tensor.name, tensor.datatype, list(tensor.shape)) for tensor in metadata.outputs]
    assert outputs == [("probabilities", "FP32", [-1, 4]), ("logits", "FP32", [-1, 4])]
    assert metadata.properties["pixel_range"] == "0-255"
    assert metadata.properties["labels"] == ",".join(versions.LABELS)


def test_model_config(channel: grpc.Channel) -> None:
    """In Triton's words."""
    config = oip(channel, "ModelConfig", name="stripes").config
    assert (config.name, config.backend, config.max_batch_size) == ("stripes", "onnxruntime", 64)
    assert list(config.input[0].dims) == [8, 8, 1]
    assert config.output[0].label_filename == "labels.txt"
    assert (config.dynamic_batching.priority_levels, config.dynamic_batching.default_priority_level) == (3, 2)


ENCODINGS = [
    *[("raw", name, "0-255") for name in ("uint8", "uint16", "int16", "int32", "int64", "float32", "float64")],
    *[("raw", name, "0-255") for name in ("float16", "uint32", "uint64")],
    *[("raw", name, "0-1") for name in ("float16", "float32", "float64")],
    *[("typed", name, "0-255") for name in ("uint8", "uint16", "int16", "int32", "int64", "float32", "float64")],
    *[("typed", name, "0-1") for name in ("float32", "float64")],
]


@pytest.mark.parametrize(("form", "dtype", "pixel_range"), ENCODINGS)
def test_every_encoding_gives_the_same_answer(channel: grpc.Channel, form: str, dtype: str, pixel_range: str) -> None:
    """Numbers of every type, raw and typed, in both ranges."""
    images = (IMAGES.astype(np.float64) / 255).astype(dtype) if pixel_range == "0-1" else IMAGES.astype(dtype)
    request = infer_request(images) if form == "raw" else typed_request(images)
    request.parameters["pixel_range"].string_param = pixel_range
    assert output(infer(channel, request)) == pytest.approx(EXPECTED, abs=1e-6)


@pytest.mark.parametrize("raw", [True, False])
@pytest.mark.parametrize("column", [True, False])
def test_image_files(channel: grpc.Channel, raw: bool, column: bool) -> None:
    """BYTES of shape [N] and [N, 1], raw and typed, are decoded as the manifest says."""
    files = []
    for image in IMAGES:
        with io.BytesIO() as file:
            Image.fromarray(image[:, :, 0]).save(file, "PNG")
            files.append(file.getvalue())
    assert output(infer(channel, bytes_request(files, raw=raw, column=column))) == pytest.approx(EXPECTED, abs=1e-6)


def test_requested_outputs(channel: grpc.Channel) -> None:
    """Those, in that order; all without a wish; the id comes back."""
    reply = infer(channel, infer_request(IMAGES, id="mine"))
    assert [tensor.name for tensor in reply.outputs] == ["probabilities", "logits"]
    assert (reply.id, reply.model_name, reply.model_version) == ("mine", "stripes", "1")
    request = infer_request(IMAGES)
    request.outputs.add(name="logits")
    reply = infer(channel, request)
    assert [tensor.name for tensor in reply.outputs] == ["logits"]
    scaled = np.exp(output(reply, "logits"))
    assert scaled / scaled.sum(1, keepdims=True) == pytest.approx(EXPECTED, abs=1e-6)


@pytest.mark.parametrize(("text", "seed", "version"), [("", 0, "1"), ("1", 0, "1"), ("2", 5, "2"), ("canary", 5, "2")])
def test_versions(channel: grpc.Channel, text: str, seed: int, version: str) -> None:
    """A number, an alias, or the server's choice."""
    reply = infer(channel, infer_request(IMAGES, model_version=text))
    assert reply.model_version == version
    assert output(reply) == pytest.approx(versions.reference(IMAGES, seed), abs=1e-6)


@pytest.mark.parametrize("count", [1, 2, 9])
def test_classification(channel: grpc.Channel, count: int) -> None:
    """BYTES [N, k] of value:index:label, highest first, six decimals."""
    request = infer_request(IMAGES)
    request.outputs.add(name="probabilities").parameters["classification"].int64_param = count
    reply = infer(channel, request)
    (tensor,) = reply.outputs
    assert (tensor.datatype, list(tensor.shape)) == ("BYTES", [5, min(count, 4)])
    order = np.argsort(-EXPECTED, axis=1, kind="stable")[:, :count]
    found = [text.split(":") for text in strings(reply.raw_output_contents[0])]
    assert [int(index) for _, index, _ in found] == order.ravel().tolist()
    assert [label for *_, label in found] == [versions.LABELS[index] for index in order.ravel()]
    values = np.take_along_axis(EXPECTED, order, 1).ravel()
    assert [float(value) for value, *_ in found] == pytest.approx(values, abs=2e-6)
    assert all(len(value.partition(".")[2]) == 6 for value, *_ in found)


def test_priority_and_timeout(channel: grpc.Channel) -> None:
    """Priorities are accepted; a timeout of a microsecond cannot be kept."""
    for level in (0, 1, 2, 7):
        request = infer_request(IMAGES)
        request.parameters["priority"].uint64_param = level
        request.parameters["timeout"].int64_param = 10_000_000
        assert len(infer(channel, request).outputs) == 2
    request.parameters["timeout"].int64_param = 1
    assert refused(channel, request).code() is grpc.StatusCode.DEADLINE_EXCEEDED


def without_raw(request: infer_pb2.ModelInferRequest) -> infer_pb2.ModelInferRequest:
    request.ClearField("raw_input_contents")
    return request


def changed(tensor: dict[str, Any] | None = None, **fields: Any) -> infer_pb2.ModelInferRequest:
    """A good request with some fields replaced."""
    request = infer_request(IMAGES)
    for name, value in fields.items():
        setattr(request, name, value)
    for name, value in (tensor or {}).items():
        if name == "shape":
            del request.inputs[0].shape[:]
            request.inputs[0].shape.extend(value)
        else:
            setattr(request.inputs[0], name, value)
    return request


def with_parameter(name: str, **value: Any) -> infer_pb2.ModelInferRequest:
    request = infer_request(IMAGES)
    request.parameters[name].CopyFrom(infer_pb2.InferParameter(**value))
    return request


def with_output(name: str, **value: Any) -> infer_pb2.ModelInferRequest:
    request = infer_request(IMAGES)
    wanted = request.outputs.add(name=name)
    if value:
        wanted.parameters["classification"].CopyFrom(infer_pb2.InferParameter(**value))
    return request


def mixed() -> infer_pb2.ModelInferRequest:
    request = typed_request(IMAGES)
    request.raw_input_contents.append(IMAGES.tobytes())
    return request


def raw_bytes(shape: list[int], raw: bytes) -> infer_pb2.ModelInferRequest:
    request = infer_pb2.ModelInferRequest(model_name="stripes", raw_input_contents=[raw])
    request.inputs.add(name="image", datatype="BYTES", shape=shape)
    return request


def test_batches_explain_themselves_when_asked(channel: grpc.Channel) -> None:
    """One text with an object for each batch; its keys are the fields of our own dialect's BatchInfo."""
    assert "batches" not in infer(channel, infer_request(IMAGES)).parameters
    assert "batches" not in infer(channel, with_parameter("explain", bool_param=False)).parameters
    (batch,) = json.loads(infer(channel, with_parameter("explain", bool_param=True)).parameters["batches"].string_param)
    assert set(batch) == set(classification_pb2.BatchInfo.DESCRIPTOR.fields_by_name)
    assert (batch["request_rows"], batch["rows"], batch["release_reason"]) == (5, 5, "idle")
    assert batch["padded_rows"] >= 5
    assert batch["run_seconds"] > 0
    assert batch["provider"] == "CPUExecutionProvider"
    many = infer_request(versions.random_images(150))
    many.parameters["explain"].bool_param = True
    split = json.loads(infer(channel, many).parameters["batches"].string_param)
    assert sum(one["request_rows"] for one in split) == 150
    assert len(split) > 1


@pytest.mark.parametrize(
    ("request_", "code", "message"),
    [
        (changed(model_name=""), "INVALID_ARGUMENT", "model_name: is empty"),
        (changed(model_name="other"), "NOT_FOUND", "the models here are: stripes"),
        (changed(model_name="a/b\0c"), "NOT_FOUND", "does not exist"),
        (changed(model_name="x" * 10_000), "NOT_FOUND", "model 'xxx"),
        (changed(model_version="7"), "NOT_FOUND", "has no version 7"),
        (changed(model_version="0"), "INVALID_ARGUMENT", "versions are 1 or higher"),
        (changed(model_version="9" * 5000), "NOT_FOUND", "there is no version"),
        (changed(model_version="nobody"), "NOT_FOUND", "has no alias 'nobody'"),
        (changed({"name": "input_1"}), "INVALID_ARGUMENT", "the model takes one, 'image'"),
        (infer_pb2.ModelInferRequest(model_name="stripes"), "INVALID_ARGUMENT", "0 came"),
        (changed({"datatype": "BF16"}), "INVALID_ARGUMENT", "inputs[0].datatype"),
        (changed({"datatype": "BOOL"}), "INVALID_ARGUMENT", "inputs[0].datatype"),
        (changed({"shape": [5, 8, 8]}), "INVALID_ARGUMENT", "inputs[0].shape"),
        (changed({"shape": [1] * 1000}), "INVALID_ARGUMENT", "1000 dimensions"),
        (changed({"shape": [-5, 8, -8, 1]}), "INVALID_ARGUMENT", "each at least 1"),
        (changed({"shape": [2**62, 2**62, 2**62, 1]}), "INVALID_ARGUMENT", "320 bytes came"),
        (changed({"shape": [6, 8, 8, 1]}), "INVALID_ARGUMENT", "320 bytes came; shape [6, 8, 8, 1] takes 384"),
        (changed({"shape": [10, 4, 8, 1]}), "INVALID_ARGUMENT", "stripes version 1 takes 8×8×1"),
        (changed({"datatype": "FP32"}), "INVALID_ARGUMENT", "takes 1280 (FP32)"),
        (mixed(), "INVALID_ARGUMENT", "beside raw_input_contents"),
        (without_raw(infer_request(IMAGES)), "INVALID_ARGUMENT", "nothing came; UINT8 is sent in uint_contents"),
        (without_raw(infer_request(IMAGES.astype(np.float16))), "INVALID_ARGUMENT", "FP16 has no typed field"),
        (infer_request(IMAGES.astype(np.float32) / 255), "INVALID_ARGUMENT", "is pixel_range '0-1' meant?"),
        (with_parameter("pixel_range", string_param="0..1"), "INVALID_ARGUMENT", "'0-255' or '0-1'"),
        (with_parameter("pixel_range", string_param="0-1"), "INVALID_ARGUMENT", "floating-point types only"),
        (with_parameter("timeout", string_param="5"), "INVALID_ARGUMENT", "int64_param"),
        (with_parameter("timeout", int64_param=-5), "INVALID_ARGUMENT", "-5 came"),
        (with_parameter("explain", int64_param=1), "INVALID_ARGUMENT", "must be a bool_param"),
        (
            with_parameter("triton_enable_empty_final_response", string_param="true"),
            *("INVALID_ARGUMENT", "must be a bool_param"),
        ),
        (with_parameter("sequence_id", int64_param=3), "UNIMPLEMENTED", "keep no state"),
        (with_output("scores"), "INVALID_ARGUMENT", "the model's outputs are"),
        (with_output("logits", int64_param=0), "INVALID_ARGUMENT", "at least one class"),
        (with_output("logits", string_param="3"), "INVALID_ARGUMENT", "int64_param"),
        (bytes_request([b"no image"]), "INVALID_ARGUMENT", "raw_input_contents[0][0]"),
        (bytes_request([b"no image"], raw=False), "INVALID_ARGUMENT", "bytes_contents[0]"),
        (raw_bytes([2], b"\1\0\0\0a"), "INVALID_ARGUMENT", "1 elements came; shape [2] takes 2"),
        (raw_bytes([1], b"\xff\xff\xff\xffabc"), "INVALID_ARGUMENT", "4294967295 bytes, and 3 are left"),
        (raw_bytes([1], b"\1\0"), "INVALID_ARGUMENT", "and 0 are left"),
        (raw_bytes([2**40], b""), "INVALID_ARGUMENT", "inputs[0].shape"),
        (b"\xff\xff\xff", "INVALID_ARGUMENT", "are no ModelInferRequest"),
        (b"\x0a\x02\xff\xfe", "INVALID_ARGUMENT", "not UTF-8"),
    ],
)
def test_bad_requests_are_explained(channel: grpc.Channel, request_: Any, code: str, message: str) -> None:
    """The same table of errors as in our own dialect."""
    error: Any = refused(channel, request_)
    assert error.code().name == code
    assert message in error.details()


def test_ten_thousand_inputs_are_refused(channel: grpc.Channel) -> None:
    """Without repeating them."""
    request = infer_request(IMAGES)
    for index in range(10_000):
        request.inputs.add(name=f"input{index}", datatype="UINT8", shape=[1])
    error: Any = refused(channel, request)
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "10001 came" in error.details()


def test_shared_memory_trace_and_logs_are_refused_with_a_sentence(channel: grpc.Channel) -> None:
    """Clients that probe for them see why, whatever they send."""
    names = [
        f"{kind}SharedMemory{verb}" for kind in ("System", "Cuda") for verb in ("Status", "Register", "Unregister")
    ]
    for name in [*names, "TraceSetting", "LogSettings"]:
        with pytest.raises(grpc.RpcError) as caught:
            call(channel, f"{OIP}/{name}", b"\x0a\x01a", infer_pb2.ModelInferResponse)
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
        assert name in str(caught.value.details())
    request = infer_request(IMAGES)
    request.inputs[0].parameters["shared_memory_region"].string_param = "region"
    assert refused(channel, request).code() is grpc.StatusCode.UNIMPLEMENTED


def test_statistics(channel: grpc.Channel) -> None:
    """Counts grow by what was asked, and the stages add up."""

    def read() -> Any:
        (one,) = oip(channel, "ModelStatistics", name="stripes", version="1").model_stats
        return one

    before = read()
    infer(channel, infer_request(IMAGES))
    refused(channel, bytes_request([b"no image"]))
    after = read()
    assert after.inference_count - before.inference_count == 5
    assert after.execution_count - before.execution_count == 1
    assert after.inference_stats.success.count - before.inference_stats.success.count == 1
    assert after.inference_stats.fail.count - before.inference_stats.fail.count == 1
    stats = after.inference_stats
    stages = stats.queue.ns + stats.compute_input.ns + stats.compute_infer.ns + stats.compute_output.ns
    assert stages == pytest.approx(stats.success.ns, rel=0.01)
    assert after.last_inference > 1e12
    sizes = {batch.batch_size: batch.compute_infer.count for batch in after.batch_stats}
    assert sizes[5] >= 1
    assert sum(sizes.values()) == after.execution_count
    assert len(oip(channel, "ModelStatistics").model_stats) == 2
    assert len(oip(channel, "ModelStatistics", name="stripes").model_stats) == 2


def test_load_and_unload_with_either_numbering(channel: grpc.Channel) -> None:
    """Triton names the model in field 2, KServe in field 1."""

    def states() -> dict[str, str]:
        models = oip(channel, "RepositoryIndex").models
        return {model.version: model.state for model in models if model.name == "stripes"}

    assert states() == {"1": "READY", "2": "READY"}
    oip(channel, "RepositoryModelUnload", model_name="stripes")
    assert states() == {"1": "UNAVAILABLE", "2": "UNAVAILABLE"}
    assert not oip(channel, "RepositoryIndex", ready=True).models
    assert refused(channel, infer_request(IMAGES)).code() is grpc.StatusCode.FAILED_PRECONDITION
    loaded = oip(channel, "RepositoryModelLoad", repository_name="stripes", parameters={"version": {"int64_param": 1}})
    assert (loaded.model_name, loaded.is_loaded) == ("stripes", True)
    assert states()["1"] == "READY"
    oip(channel, "RepositoryModelLoad", model_name="stripes")
    assert states() == {"1": "READY", "2": "READY"}


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({}, "INVALID_ARGUMENT"),
        ({"model_name": "other"}, "NOT_FOUND"),
        ({"repository_name": "r", "model_name": "stripes"}, "UNIMPLEMENTED"),
        ({"model_name": "stripes", "parameters": {"config": {"string_param": "{}"}}}, "UNIMPLEMENTED"),
        ({"model_name": "stripes", "parameters": {"version": {"int64_param": -1}}}, "INVALID_ARGUMENT"),
        ({"model_name": "stripes", "parameters": {"version": {"int64_param": 99}}}, "NOT_FOUND"),
    ],
)
def test_bad_loads_are_refused(channel: grpc.Channel, fields: dict[str, Any], code: str) -> None:
    """A model cannot be replaced by what a caller sends."""
    with pytest.raises(grpc.RpcError) as caught:
        oip(channel, "RepositoryModelLoad", **fields)
    assert caught.value.code().name == code


def stream(channel: grpc.Channel, requests: Iterator[Any]) -> Any:
    open_stream = channel.stream_stream(
        f"/{OIP}/ModelStreamInfer",
        request_serializer=lambda message: message if isinstance(message, bytes) else message.SerializeToString(),
        response_deserializer=infer_pb2.ModelStreamInferResponse.FromString,
    )
    return open_stream(requests)


def test_a_stream_answers_in_order_and_survives_errors(channel: grpc.Channel) -> None:
    """Every request has its reply; those that fail say so and end nothing."""
    requests: list[Any] = [infer_request(IMAGES, id=f"good {index}") for index in range(200)]
    requests[50] = infer_request(IMAGES, model="other", id="bad")
    requests[120] = b"\xff"
    replies = list(stream(channel, iter(requests)))
    assert len(replies) == 200
    assert all(reply.infer_response.parameters["triton_final_response"].bool_param for reply in replies)
    for index, reply in enumerate(replies):
        if index == 50:
            assert "does not exist" in reply.error_message
            assert reply.infer_response.id == "bad"
        elif index == 120:
            assert "are no ModelInferRequest" in reply.error_message
        else:
            assert not reply.error_message
            assert reply.infer_response.id == f"good {index}"
            assert output(reply.infer_response) == pytest.approx(EXPECTED, abs=1e-6)


def test_no_empty_replies_end_the_requests_of_a_stream(channel: grpc.Channel) -> None:
    """Also when asked for: each request has one reply, which is the last."""
    request = with_parameter("triton_enable_empty_final_response", bool_param=True)
    replies = list(stream(channel, iter([request] * 3)))
    assert [len(reply.infer_response.outputs) for reply in replies] == [2, 2, 2]
    assert all(reply.infer_response.parameters["triton_final_response"].bool_param for reply in replies)


def test_a_stream_is_a_conversation(channel: grpc.Channel) -> None:
    """Each reply comes while the stream is open."""
    answered = threading.Semaphore(0)

    def ask() -> Iterator[Any]:
        for _ in range(3):
            yield infer_request(IMAGES)
            assert answered.acquire(timeout=10)

    for reply in stream(channel, ask()):
        assert output(reply.infer_response).shape == (5, 4)
        answered.release()


def test_streams_that_are_left_give_their_threads_back(server: ServerProcess, channel: grpc.Channel) -> None:
    """Far more than may be open at once, one after the other."""
    for _ in range(80):
        hold = threading.Event()

        def ask(hold: threading.Event = hold) -> Iterator[Any]:
            yield infer_request(IMAGES)
            hold.wait(10)

        opened = stream(channel, ask())
        next(opened)
        opened.cancel()
        hold.set()
    assert output(infer(channel, infer_request(IMAGES))).shape == (5, 4)


def test_metrics_tell_the_dialect(server: ServerProcess, channel: grpc.Channel) -> None:
    """Label `api`."""
    labels = {"api": "open_inference", "method": "ModelInfer", "model": "stripes", "code": "OK"}
    before = server.metric("convserve_requests_total", **labels)
    infer(channel, infer_request(IMAGES))
    until(lambda: server.metric("convserve_requests_total", **labels) == before + 1)  # counted once the reply has left
    until(lambda: server.metric("convserve_requests_in_flight", api="open_inference") == 0)


def test_reflection_shows_the_public_names(channel: grpc.Channel) -> None:
    """What a client without definitions needs."""
    reflection = reflection_pb2_grpc.ServerReflectionStub(channel)
    request = reflection_pb2.ServerReflectionRequest(file_containing_symbol=OIP)
    (reply,) = reflection.ServerReflectionInfo(iter([request]))
    assert any(b"ModelInferRequest" in file for file in reply.file_descriptor_response.file_descriptor_proto)
    assert not any(b".convserve." in file for file in reply.file_descriptor_response.file_descriptor_proto)


def test_an_open_stream_does_not_hold_the_server_up(repository: Any, tmp_path: Any) -> None:
    """Draining ends it with UNAVAILABLE, which tells the caller to go elsewhere."""
    with serving(repository, tmp_path) as server, grpc.insecure_channel(server.target) as channel:
        hold = threading.Event()

        def ask() -> Iterator[Any]:
            yield infer_request(IMAGES)
            hold.wait(30)

        opened = stream(channel, ask())
        next(opened)
        assert server.stop(timeout=10) == 0
        with pytest.raises(grpc.RpcError) as caught:
            next(opened)
        hold.set()
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


def test_dialects_share_batches(tmp_path: Any) -> None:
    """A native call and a foreign one wait in the same queue."""
    versions.write_version(tmp_path / "repository")
    flags = ("--model-max-queue-delay", "5", "--model-max-batch-size", "2")
    with serving(tmp_path / "repository", tmp_path, *flags) as server, grpc.insecure_channel(server.target) as channel:
        image: npt.NDArray[np.uint8] = IMAGES[:1]
        packed = classification_pb2.PackedImages(data=image.tobytes(), shape=image.shape)
        native = classification_pb2_grpc.ClassificationServiceStub(channel).Classify.future(
            classification_pb2.ClassifyRequest(model="stripes", packed=packed, explain=True)
        )
        assert output(infer(channel, infer_request(image))) == pytest.approx(EXPECTED[:1], abs=1e-6)
        (batch,) = native.result().batches
        assert (batch.rows, batch.request_rows) == (2, 1)
