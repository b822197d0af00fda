"""Whatever comes, every dialect answers with a documented status, and the server lives.

`HOSTILE_CASES=20000 pytest tests/integration/test_hostile_messages.py --timeout 3600` tries as many cases of each test.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from convserve.open_inference.v2 import infer_pb2, management_pb2
from convserve.tensorflow_core.v1 import example_pb2, tensor_pb2
from convserve.tensorflow_serving.v1 import model_pb2, prediction_pb2
from convserve.v1 import classification_pb2
from convserve.v1 import model_pb2 as own_model_pb2
from support import versions
from support.foreign import OIP, infer, infer_request, oip
from support.server import ServerProcess, serving

CASES = int(os.environ.get("HOSTILE_CASES", "80"))
hostile = settings(
    max_examples=CASES,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    database=None,
)

DOCUMENTED = {
    "INVALID_ARGUMENT",
    "NOT_FOUND",
    "FAILED_PRECONDITION",
    "RESOURCE_EXHAUSTED",
    "DEADLINE_EXCEEDED",
    "PERMISSION_DENIED",
    "UNIMPLEMENTED",
}
PREDICTION = "tensorflow.serving.PredictionService"
METHODS = [
    *(f"{OIP}/{name}" for name in ("ServerLive", "ServerReady", "ServerMetadata", "ModelReady", "ModelMetadata")),
    *(f"{OIP}/{name}" for name in ("ModelConfig", "ModelStatistics", "ModelInfer", "RepositoryIndex")),
    *(f"{OIP}/{name}" for name in ("RepositoryModelLoad", "RepositoryModelUnload", "TraceSetting")),
    *(f"{PREDICTION}/{name}" for name in ("Predict", "Classify", "Regress", "MultiInference", "GetModelMetadata")),
    "tensorflow.serving.ModelService/GetModelStatus",
    "convserve.v1.ClassificationService/Classify",
    "convserve.v1.ModelService/GetModel",
]


def png() -> bytes:
    """An image file that is good."""
    content = io.BytesIO()
    Image.new("L", (8, 8), 9).save(content, "PNG")
    return content.getvalue()


PNG = png()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    root = tmp_path_factory.mktemp("served")
    versions.write_version(root / "repository")
    with serving(root / "repository", root) as running:
        yield running
        assert running.process.poll() is None
        with grpc.insecure_channel(running.target) as channel:
            assert len(infer(channel, infer_request(versions.random_images(1))).outputs) == 2


@pytest.fixture(scope="module")
def channel(server: ServerProcess) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(server.target) as made:
        yield made


@pytest.fixture(scope="module")
def admin_channel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[grpc.Channel]:
    """A server of its own, whose model comes and goes."""
    root = tmp_path_factory.mktemp("changing")
    versions.write_version(root / "repository")
    with (
        serving(root / "repository", root, "--admin-methods", "true") as running,
        grpc.insecure_channel(running.target) as channel,
    ):
        yield channel
        assert running.process.poll() is None
        oip(channel, "RepositoryModelLoad", model_name="stripes")
        assert len(infer(channel, infer_request(versions.random_images(1))).outputs) == 2


def check(channel: grpc.Channel, path: str, data: bytes) -> None:
    """The call ends with OK or a documented status, and its sentence is not empty."""
    method: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(f"/{path}")
    try:
        method(data, timeout=20)
    except grpc.RpcError as error:
        assert error.code().name in DOCUMENTED, (error.code(), error.details())  # noqa: PT017
        assert error.details()  # noqa: PT017


def damaged(message: Any) -> st.SearchStrategy[bytes]:
    """The message whole, cut short, or with bytes and unknown fields in it."""
    whole: bytes = message.SerializeToString()
    return st.one_of(
        st.just(whole),
        st.integers(0, len(whole)).map(lambda end: whole[:end]),
        st.binary(max_size=40).map(lambda more: whole + more),
        st.just(whole + b"\xfa\x3f\x04abcd"),  # field 1023
        st.tuples(st.integers(0, len(whole)), st.binary(min_size=1, max_size=4)).map(
            lambda at: whole[: at[0]] + at[1] + whole[at[0] + 1 :]
        ),
    )


names = st.one_of(
    st.just("stripes"), st.sampled_from(["", "a/b", "../x", "stripes\0", "x" * 5000, "é" * 3000]), st.text(max_size=20)
)
sizes = st.one_of(
    st.integers(-(2**63), 2**63 - 1), st.sampled_from([0, 1, 8, -1, 2**31, 2**32, 2**62]), st.integers(0, 9)
)
shapes = st.one_of(
    st.lists(sizes, max_size=6), st.just([1, 8, 8, 1]), st.just([1]), st.just([1, 1]), st.just([1] * 3000)
)
raws = st.one_of(st.binary(max_size=300), st.just(bytes(64)), st.just(bytes(256)), st.just(b"\xff" * 256))


@st.composite
def parameters(draw: st.DrawFn) -> dict[str, infer_pb2.InferParameter]:
    keys = st.sampled_from(
        [
            *("priority", "timeout", "pixel_range", "sequence_id", "classification", "headers", "\0"),
            *("explain", "triton_enable_empty_final_response", "version", "unload_dependents"),
        ]
    )
    values = st.one_of(
        st.booleans().map(lambda value: infer_pb2.InferParameter(bool_param=value)),
        st.integers(-(2**63), 2**63 - 1).map(lambda value: infer_pb2.InferParameter(int64_param=value)),
        st.integers(0, 2**64 - 1).map(lambda value: infer_pb2.InferParameter(uint64_param=value)),
        st.floats().map(lambda value: infer_pb2.InferParameter(double_param=value)),
        st.sampled_from(["0-1", "0-255", "", "x"]).map(lambda value: infer_pb2.InferParameter(string_param=value)),
        st.just(infer_pb2.InferParameter()),
    )
    return draw(st.dictionaries(keys, values, max_size=2))


@st.composite
def contents(draw: st.DrawFn) -> infer_pb2.InferTensorContents:
    made = infer_pb2.InferTensorContents()
    count = draw(st.sampled_from([0, 1, 64]))
    if draw(st.booleans()):
        made.uint_contents.extend(draw(st.lists(st.integers(0, 2**32 - 1), min_size=count, max_size=count)))
    if draw(st.integers(0, 3)) == 0:
        made.int_contents.extend(draw(st.lists(st.integers(-(2**31), 2**31 - 1), min_size=count, max_size=count)))
    if draw(st.integers(0, 3)) == 0:
        made.fp32_contents.extend(draw(st.lists(st.floats(width=32), min_size=count, max_size=count)))
    if draw(st.integers(0, 3)) == 0:
        made.bytes_contents.extend(draw(st.lists(st.binary(max_size=9), max_size=3)))
    return made


@st.composite
def infer_requests(draw: st.DrawFn) -> infer_pb2.ModelInferRequest:
    request = infer_pb2.ModelInferRequest(
        model_name=draw(names), model_version=draw(st.one_of(st.just(""), names)), id=draw(st.text(max_size=9))
    )
    for key, value in draw(parameters()).items():
        request.parameters[key].CopyFrom(value)
    datatypes = ["UINT8", "FP16", "FP32", "FP64", "INT8", "INT64", "UINT64", "BYTES", "BOOL", "BF16", "", "\0"]
    for _ in range(draw(st.sampled_from([1, 1, 1, 0, 2]))):
        tensor = request.inputs.add(
            name=draw(st.one_of(st.just("image"), names)), datatype=draw(st.sampled_from(datatypes)), shape=draw(shapes)
        )
        if draw(st.booleans()):
            tensor.contents.CopyFrom(draw(contents()))
        for key, value in draw(parameters()).items():
            tensor.parameters[key].CopyFrom(value)
    request.raw_input_contents.extend(draw(st.lists(raws, max_size=2)))
    for name in draw(st.lists(st.sampled_from(["logits", "probabilities", "x", ""]), max_size=2)):
        output = request.outputs.add(name=name)
        for key, value in draw(parameters()).items():
            output.parameters[key].CopyFrom(value)
    return request


@st.composite
def predict_requests(draw: st.DrawFn) -> prediction_pb2.PredictRequest:
    request = prediction_pb2.PredictRequest(output_filter=draw(st.lists(st.sampled_from(["logits", "x"]), max_size=2)))
    request.model_spec.name = draw(names)
    request.model_spec.signature_name = draw(st.sampled_from(["", "serving_default", "unit_range", "x"]))
    if draw(st.booleans()):
        request.model_spec.version.value = draw(sizes)
    elif draw(st.booleans()):
        request.model_spec.version_label = draw(names)
    for name in draw(st.sampled_from([["image"], ["image"], [], ["image", "x"]])):
        tensor = request.inputs[name]
        tensor.dtype = draw(st.one_of(st.sampled_from(tensor_pb2.DataType.values()), st.integers(-5, 200)))  # type: ignore[assignment]
        for size in draw(shapes):
            tensor.tensor_shape.dim.add(size=size)
        if draw(st.integers(0, 2)):
            tensor.tensor_content = draw(raws)
        tensor.int_val.extend(draw(st.lists(st.integers(-(2**31), 2**31 - 1), max_size=3)))
        if draw(st.booleans()):
            tensor.half_val.extend(draw(st.lists(st.integers(-9, 2**17), max_size=3)))
            tensor.double_val.extend(draw(st.lists(st.floats(), max_size=3)))
            tensor.string_val.extend(draw(st.lists(st.binary(max_size=9), max_size=2)))
    return request


@st.composite
def features(draw: st.DrawFn) -> example_pb2.Example:
    made = example_pb2.Example()
    for name in draw(st.lists(st.sampled_from(["image/encoded", "image/encoded", "x", "\0"]), max_size=2, unique=True)):
        feature = made.features.feature[name]
        kind = draw(st.sampled_from(["bytes_list", "bytes_list", "float_list", "int64_list", ""]))
        if kind == "bytes_list":
            feature.bytes_list.value.extend(draw(st.lists(st.one_of(st.just(PNG), st.binary(max_size=60)), max_size=2)))
        elif kind:
            getattr(feature, kind).value.extend([1] * draw(st.integers(0, 3)))
    return made


@st.composite
def example_requests(draw: st.DrawFn) -> prediction_pb2.ClassificationRequest:
    request = prediction_pb2.ClassificationRequest()
    request.model_spec.name = draw(names)
    request.model_spec.signature_name = draw(st.sampled_from(["", "classify", "serving_default", "unit_range", "\0"]))
    examples = draw(st.one_of(st.lists(features(), max_size=3), st.just([example_pb2.Example()] * 10_000)))
    if draw(st.booleans()):
        request.input.example_list.examples.extend(examples)
    elif draw(st.booleans()):
        request.input.example_list_with_context.examples.extend(examples)
        request.input.example_list_with_context.context.CopyFrom(draw(features()))
    return request


@st.composite
def own_requests(draw: st.DrawFn) -> classification_pb2.ClassifyRequest:
    request = classification_pb2.ClassifyRequest(
        model=draw(names), top_k=draw(st.sampled_from([0, 1, 4, 2**31])), explain=draw(st.booleans())
    )
    request.priority = draw(st.integers(-9, 9))  # type: ignore[assignment]
    if draw(st.booleans()):
        request.version = draw(sizes)
    elif draw(st.booleans()):
        request.alias = draw(names)
    if draw(st.booleans()):
        request.packed.data = draw(raws)
        request.packed.shape.extend(draw(st.lists(st.integers(-(2**63), 2**63 - 1), max_size=6) | shapes))
    elif draw(st.booleans()):
        request.encoded.images.extend(draw(st.lists(st.one_of(st.just(PNG), st.binary(max_size=60)), max_size=3)))
    return request


@st.composite
def admin_requests(draw: st.DrawFn) -> tuple[str, Any]:
    name, version = draw(names), draw(sizes)
    kind = draw(st.sampled_from(["Load", "Unload"]))
    form = draw(st.sampled_from(["triton", "own", "alias"]))
    if form == "alias":
        alias = draw(names)
        return (
            "convserve.v1.ModelService/SetAlias",
            own_model_pb2.SetAliasRequest(name=name, alias=alias, version=version),
        )
    if form == "own":
        message = getattr(own_model_pb2, f"{kind}ModelRequest")(name=name, version=version)
        return f"convserve.v1.ModelService/{kind}Model", message
    message = getattr(management_pb2, f"RepositoryModel{kind}Request")(
        repository_name=draw(st.sampled_from(["", "", "stripes", "\0"])), model_name=name
    )
    for key, value in draw(parameters()).items():
        message.parameters[key].ParseFromString(value.SerializeToString())
    return f"{OIP}/RepositoryModel{kind}", message


@hostile
@given(data=st.data())
def test_infer_requests(channel: grpc.Channel, data: st.DataObject) -> None:
    """ModelInfer: anything in any field, whole or damaged."""
    check(channel, f"{OIP}/ModelInfer", data.draw(damaged(data.draw(infer_requests()))))


@hostile
@given(data=st.data())
def test_predict_requests(channel: grpc.Channel, data: st.DataObject) -> None:
    """Predict: anything in any field, whole or damaged."""
    check(channel, f"{PREDICTION}/Predict", data.draw(damaged(data.draw(predict_requests()))))


@hostile
@given(data=st.data())
def test_examples(channel: grpc.Channel, data: st.DataObject) -> None:
    """Classify of TensorFlow Serving: anything in any field, whole or damaged."""
    check(channel, f"{PREDICTION}/Classify", data.draw(damaged(data.draw(example_requests()))))


@hostile
@given(data=st.data())
def test_own_requests(channel: grpc.Channel, data: st.DataObject) -> None:
    """Classify of our own: anything in any field, whole or damaged."""
    check(channel, "convserve.v1.ClassificationService/Classify", data.draw(damaged(data.draw(own_requests()))))


@hostile
@given(data=st.data())
def test_admin_requests(admin_channel: grpc.Channel, data: st.DataObject) -> None:
    """Loading, unloading and aliases: anything in any field, whole or damaged."""
    path, form = data.draw(admin_requests())
    check(admin_channel, path, data.draw(damaged(form)))


@settings(hostile, max_examples=max(CASES // 5, 1))
@given(data=st.data())
def test_streams(channel: grpc.Channel, data: st.DataObject) -> None:
    """A stream of anything: each message has its reply, with outputs or with a sentence, and the stream ends well."""
    messages = data.draw(st.lists(infer_requests().flatmap(damaged), max_size=8))
    method: grpc.StreamStreamMultiCallable[bytes, bytes] = channel.stream_stream(f"/{OIP}/ModelStreamInfer")
    replies = [infer_pb2.ModelStreamInferResponse.FromString(one) for one in method(iter(messages), timeout=30)]
    assert len(replies) == len(messages)
    for reply in replies:
        assert bool(reply.error_message) != bool(reply.infer_response.outputs)
        assert reply.infer_response.parameters["triton_final_response"].bool_param


@hostile
@given(path=st.sampled_from(METHODS), name=names, version=st.one_of(st.just(""), names), data=st.data())
def test_requests_that_name_a_model(
    channel: grpc.Channel, path: str, name: str, version: str, data: st.DataObject
) -> None:
    """Names and versions of every kind, in the form of either dialect, to every method."""
    form = data.draw(
        st.sampled_from(
            [
                model_pb2.GetModelStatusRequest(model_spec=model_pb2.ModelSpec(name=name, version_label=version)),
                infer_pb2.ModelInferRequest(model_name=name, model_version=version),
            ]
        )
    )
    check(channel, path, data.draw(damaged(form)))


@hostile
@given(path=st.sampled_from(METHODS), data=st.binary(max_size=200))
def test_bytes(channel: grpc.Channel, path: str, data: bytes) -> None:
    """Bytes that are no message, to every method."""
    check(channel, path, data)
