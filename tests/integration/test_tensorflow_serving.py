"""TensorFlow Serving's API, spoken by a real server process."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from convserve import manifest as m
from convserve.tensorflow_core.v1 import example_pb2, tensor_pb2
from convserve.tensorflow_serving.v1 import model_pb2
from convserve.tensorflow_serving.v1 import prediction_pb2 as pb
from support import versions
from support.foreign import call
from support.server import ServerProcess, serving
from support.waiting import until

PREDICTION = "tensorflow.serving.PredictionService"
IMAGES = versions.random_images(5, seed=7)
EXPECTED = versions.reference(IMAGES)

DTYPES = {
    "uint8": (tensor_pb2.DT_UINT8, "int_val"),
    "uint16": (tensor_pb2.DT_UINT16, "int_val"),
    "uint32": (tensor_pb2.DT_UINT32, "uint32_val"),
    "uint64": (tensor_pb2.DT_UINT64, "uint64_val"),
    "int16": (tensor_pb2.DT_INT16, "int_val"),
    "int32": (tensor_pb2.DT_INT32, "int_val"),
    "int64": (tensor_pb2.DT_INT64, "int64_val"),
    "float16": (tensor_pb2.DT_HALF, "half_val"),
    "float32": (tensor_pb2.DT_FLOAT, "float_val"),
    "float64": (tensor_pb2.DT_DOUBLE, "double_val"),
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    root = tmp_path_factory.mktemp("served")
    versions.write_version(root / "repository")
    versions.write_version(root / "repository", version=2, seed=5)
    (versions.write_version(root / "repository", version=3) / m.ONNX_FILE).write_bytes(b"")
    config = root / "config.toml"
    config.write_text('[model]\nversion_policy = "all"\naliases = { stable = 1, canary = 2 }\n')
    with serving(root / "repository", root, "--config", str(config), "--exit-on-error", "false") as running:
        yield running


@pytest.fixture(scope="module")
def channel(server: ServerProcess) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(server.target) as made:
        yield made


def shape(*sizes: int) -> tensor_pb2.TensorShapeProto:
    return tensor_pb2.TensorShapeProto(dim=[tensor_pb2.TensorShapeProto.Dim(size=size) for size in sizes])


def numbers(images: npt.NDArray[Any], *, typed: bool = False) -> tensor_pb2.TensorProto:
    dtype, field = DTYPES[images.dtype.name]
    tensor = tensor_pb2.TensorProto(dtype=dtype, tensor_shape=shape(*images.shape))
    if typed:
        values = images.view(np.uint16) if images.dtype == np.float16 else images
        getattr(tensor, field).extend(values.ravel().tolist())
    else:
        tensor.tensor_content = images.tobytes()
    return tensor


def files() -> list[bytes]:
    encoded = []
    for image in IMAGES:
        with io.BytesIO() as file:
            Image.fromarray(image[:, :, 0]).save(file, "PNG")
            encoded.append(file.getvalue())
    return encoded


def strings(values: list[bytes], *sizes: int) -> tensor_pb2.TensorProto:
    return tensor_pb2.TensorProto(dtype=tensor_pb2.DT_STRING, tensor_shape=shape(*sizes), string_val=values)


def spec(name: str = "stripes", **fields: Any) -> model_pb2.ModelSpec:
    return model_pb2.ModelSpec(name=name, **fields)


def predict_request(tensor: tensor_pb2.TensorProto, name: str = "image", **fields: Any) -> pb.PredictRequest:
    return pb.PredictRequest(model_spec=fields.pop("model_spec", spec()), inputs={name: tensor}, **fields)


def predict(channel: grpc.Channel, request: pb.PredictRequest | bytes) -> Any:
    return call(channel, f"{PREDICTION}/Predict", request, pb.PredictResponse)


def output(reply: Any, name: str = "probabilities") -> Any:
    tensor = reply.outputs[name]
    assert tensor.dtype == tensor_pb2.DT_FLOAT
    return np.array(tensor.float_val).reshape([dim.size for dim in tensor.tensor_shape.dim])


@pytest.mark.parametrize("typed", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_encoding_gives_the_same_answer(channel: grpc.Channel, dtype: str, typed: bool) -> None:
    """Bytes and typed fields of every type."""
    reply = predict(channel, predict_request(numbers(IMAGES.astype(dtype), typed=typed)))
    assert output(reply) == pytest.approx(EXPECTED, abs=1e-6)
    assert (reply.model_spec.name, reply.model_spec.version.value) == ("stripes", 1)
    assert reply.model_spec.signature_name == "serving_default"


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_the_unit_range_is_a_signature(channel: grpc.Channel, dtype: str) -> None:
    """Pixels in 0..1."""
    tensor = numbers((IMAGES / 255).astype(dtype))
    reply = predict(channel, predict_request(tensor, model_spec=spec(signature_name="unit_range")))
    assert output(reply) == pytest.approx(EXPECTED, abs=1e-6)
    assert reply.model_spec.signature_name == "unit_range"


@pytest.mark.parametrize("signature", ["", "serving_default", "encoded_images"])
@pytest.mark.parametrize("sizes", [(5,), (5, 1)])
def test_image_files(channel: grpc.Channel, signature: str, sizes: tuple[int, ...]) -> None:
    """DT_STRING of shape [N] and [N, 1]."""
    request = predict_request(strings(files(), *sizes), model_spec=spec(signature_name=signature))
    assert output(predict(channel, request)) == pytest.approx(EXPECTED, abs=1e-6)


def test_a_last_value_is_repeated(channel: grpc.Channel) -> None:
    """As TensorFlow reads a tensor with fewer values than its shape takes."""
    tensor = tensor_pb2.TensorProto(dtype=tensor_pb2.DT_UINT8, tensor_shape=shape(2, 8, 8, 1), int_val=[9, 7])
    images = np.full((2, 8, 8, 1), 7, np.uint8)
    images[0, 0, 0, 0] = 9
    assert output(predict(channel, predict_request(tensor))) == pytest.approx(versions.reference(images), abs=1e-6)


@pytest.mark.parametrize(
    ("choice", "seed", "version"),
    [({}, 0, 1), ({"version": {"value": 2}}, 5, 2), ({"version_label": "canary"}, 5, 2)],
)
def test_versions(channel: grpc.Channel, choice: dict[str, Any], seed: int, version: int) -> None:
    """A number, a label, or the server's choice."""
    reply = predict(channel, predict_request(numbers(IMAGES), model_spec=spec(**choice)))
    assert reply.model_spec.version.value == version
    assert output(reply) == pytest.approx(versions.reference(IMAGES, seed), abs=1e-6)


def test_output_filter(channel: grpc.Channel) -> None:
    """Those outputs and no others."""
    assert set(predict(channel, predict_request(numbers(IMAGES))).outputs) == {"logits", "probabilities"}
    reply = predict(channel, predict_request(numbers(IMAGES), output_filter=["logits"]))
    assert set(reply.outputs) == {"logits"}
    scaled = np.exp(output(reply, "logits"))
    assert scaled / scaled.sum(1, keepdims=True) == pytest.approx(EXPECTED, abs=1e-6)


def example(value: bytes | None) -> example_pb2.Example:
    made = example_pb2.Example()
    if value is not None:
        made.features.feature["image/encoded"].bytes_list.value.append(value)
    return made


def classify(channel: grpc.Channel, given: pb.Input, **fields: Any) -> Any:
    request = pb.ClassificationRequest(model_spec=spec(**fields), input=given)
    return call(channel, f"{PREDICTION}/Classify", request, pb.ClassificationResponse)


def test_classify_examples(channel: grpc.Channel) -> None:
    """All classes of each example, most probable first."""
    given = pb.Input(example_list=pb.ExampleList(examples=[example(file) for file in files()]))
    reply = classify(channel, given)
    assert reply.model_spec.version.value == 1
    for found, expected in zip(reply.result.classifications, EXPECTED, strict=True):
        order = np.argsort(-expected, kind="stable")
        assert [one.label for one in found.classes] == [versions.LABELS[index] for index in order]
        assert [one.score for one in found.classes] == pytest.approx(expected[order], abs=1e-6)


def test_classify_with_context(channel: grpc.Channel) -> None:
    """Features of the context stand for those that an example does not have."""
    first, second, *_ = files()
    examples = pb.ExampleListWithContext(examples=[example(first), example(None)], context=example(second))
    reply = classify(channel, pb.Input(example_list_with_context=examples), signature_name="classify")
    best = [versions.LABELS[index] for index in EXPECTED[:2].argmax(1)]
    assert [found.classes[0].label for found in reply.result.classifications] == best


def test_metadata(channel: grpc.Channel) -> None:
    """Signatures, under the public type's name."""
    request = pb.GetModelMetadataRequest(model_spec=spec(), metadata_field=["signature_def"])
    reply = call(channel, f"{PREDICTION}/GetModelMetadata", request, pb.GetModelMetadataResponse)
    packed = reply.metadata["signature_def"]
    assert packed.type_url == "type.googleapis.com/tensorflow.serving.SignatureDefMap"
    signatures = pb.SignatureDefMap.FromString(packed.value).signature_def
    assert set(signatures) == {"serving_default", "unit_range", "encoded_images", "classify"}
    default = signatures["serving_default"]
    assert default.method_name == "tensorflow/serving/predict"
    assert default.inputs["image"].dtype == tensor_pb2.DT_UINT8
    assert [dim.size for dim in default.inputs["image"].tensor_shape.dim] == [-1, 8, 8, 1]
    assert set(default.outputs) == {"probabilities", "logits"}


def status(channel: grpc.Channel, **fields: Any) -> Any:
    request = model_pb2.GetModelStatusRequest(model_spec=spec(**fields))
    path = "tensorflow.serving.ModelService/GetModelStatus"
    return call(channel, path, request, model_pb2.GetModelStatusResponse).model_version_status


def test_status(channel: grpc.Channel) -> None:
    """Of all versions, of a number, of a label; a failed one has ended and says why."""
    states = {one.version: one.state for one in status(channel)}
    available, end = model_pb2.ModelVersionStatus.AVAILABLE, model_pb2.ModelVersionStatus.END
    assert states == {1: available, 2: available, 3: end}
    (failed,) = status(channel, version={"value": 3})
    assert failed.status.error_code == grpc.StatusCode.FAILED_PRECONDITION.value[0]
    assert "model.onnx" in failed.status.error_message
    assert [one.version for one in status(channel, version_label="canary")] == [2]
    for fields in ({"name": "other"}, {"version": {"value": 9}}, {"version_label": "nobody"}):
        with pytest.raises(grpc.RpcError) as caught:
            status(channel, **fields)
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND


def tensor(**fields: Any) -> pb.PredictRequest:
    return predict_request(tensor_pb2.TensorProto(**fields))


U8 = tensor_pb2.DT_UINT8


@pytest.mark.parametrize(
    ("request_", "code", "message"),
    [
        (predict_request(numbers(IMAGES), model_spec=spec("")), "INVALID_ARGUMENT", "model_spec.name: is empty"),
        (predict_request(numbers(IMAGES), model_spec=spec("other")), "NOT_FOUND", "the models here are: stripes"),
        (predict_request(numbers(IMAGES), model_spec=spec(version={"value": 9})), "NOT_FOUND", "no version 9"),
        (predict_request(numbers(IMAGES), model_spec=spec(version={"value": -9})), "INVALID_ARGUMENT", "-9 came"),
        (predict_request(numbers(IMAGES), model_spec=spec(version={"value": 3})), "FAILED_PRECONDITION", "is failed"),
        (predict_request(numbers(IMAGES), model_spec=spec(version_label="")), "INVALID_ARGUMENT", "is empty"),
        (predict_request(numbers(IMAGES), model_spec=spec(version_label="x")), "NOT_FOUND", "has no alias 'x'"),
        (predict_request(numbers(IMAGES), model_spec=spec(signature_name="x")), "INVALID_ARGUMENT", "signatures are"),
        (
            predict_request(numbers(IMAGES), model_spec=spec(signature_name="encoded_images")),
            "INVALID_ARGUMENT",
            "DT_UINT8 came, which signature 'encoded_images' does not take",
        ),
        (
            predict_request(strings([b"x"], 1), model_spec=spec(signature_name="unit_range")),
            "INVALID_ARGUMENT",
            "DT_STRING came",
        ),
        (predict_request(numbers(IMAGES), "input_1"), "INVALID_ARGUMENT", "the model takes one, 'image'"),
        (predict_request(numbers(IMAGES), output_filter=["x"]), "INVALID_ARGUMENT", "output_filter[0]"),
        (predict_request(numbers(IMAGES), output_filter=["logits"] * 9999), "INVALID_ARGUMENT", "output_filter[1]"),
        (tensor(), "INVALID_ARGUMENT", "DT_INVALID came"),
        (tensor(dtype=77), "INVALID_ARGUMENT", "type 77 came"),
        (tensor(dtype=U8, tensor_shape={"unknown_rank": True}), "INVALID_ARGUMENT", "is unknown"),
        (tensor(dtype=U8, tensor_shape=shape(8, 8), int_val=[1]), "INVALID_ARGUMENT", "[8, 8] came"),
        (tensor(dtype=U8, tensor_shape=shape(*[1] * 500), int_val=[1]), "INVALID_ARGUMENT", "500 dimensions"),
        (tensor(dtype=U8, tensor_shape=shape(-1, 8, 8, 1), int_val=[1]), "INVALID_ARGUMENT", "each at least 1"),
        (tensor(dtype=U8, tensor_shape=shape(1, 8, 8, 1)), "INVALID_ARGUMENT", "in no field"),
        (tensor(dtype=U8, tensor_shape=shape(2**40, 8, 8, 1), int_val=[1]), "INVALID_ARGUMENT", "1 values came"),
        (tensor(dtype=U8, tensor_shape=shape(1, 8, 8, 1), int_val=[1] * 65), "INVALID_ARGUMENT", "65 values came"),
        (tensor(dtype=U8, tensor_shape=shape(1, 8, 8, 1), int_val=[256]), "INVALID_ARGUMENT", "outside uint8"),
        (tensor(dtype=U8, tensor_shape=shape(1, 8, 8, 1), float_val=[1.0]), "INVALID_ARGUMENT", "float_val"),
        (tensor(dtype=U8, tensor_shape=shape(1, 8, 8, 1), tensor_content=b"abc"), "INVALID_ARGUMENT", "takes 64"),
        (
            tensor(dtype=U8, tensor_shape=shape(1, 8, 8, 1), tensor_content=b"a" * 64, int_val=[1]),
            "INVALID_ARGUMENT",
            "tensor_content and int_val",
        ),
        (predict_request(numbers(IMAGES / np.float32(255))), "INVALID_ARGUMENT", "is pixel_range '0-1' meant?"),
        (predict_request(strings([b"x"], 2)), "INVALID_ARGUMENT", "1 values came; shape [2] takes 2"),
        (predict_request(strings([b"x"])), "INVALID_ARGUMENT", "[] came"),
        (predict_request(strings([b"x"], 1)), "INVALID_ARGUMENT", "string_val[0]"),
        (b"\xff\xff", "INVALID_ARGUMENT", "are no PredictRequest"),
    ],
)
def test_bad_predictions_are_explained(channel: grpc.Channel, request_: Any, code: str, message: str) -> None:
    """The same table of errors as in our own dialect."""
    with pytest.raises(grpc.RpcError) as caught:
        predict(channel, request_)
    assert caught.value.code().name == code
    assert message in str(caught.value.details())


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (pb.Input(), "input: is missing"),
        (pb.Input(example_list=pb.ExampleList()), "0 images came"),
        (pb.Input(example_list=pb.ExampleList(examples=[example(None)])), "input.examples[0]: has 0 values"),
        (pb.Input(example_list=pb.ExampleList(examples=[example(b"no image")])), "input.examples[0]"),
    ],
)
def test_bad_examples_are_explained(channel: grpc.Channel, given: pb.Input, message: str) -> None:
    """With the example's place."""
    with pytest.raises(grpc.RpcError) as caught:
        classify(channel, given)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert message in str(caught.value.details())


def test_what_is_not_offered_says_so(channel: grpc.Channel) -> None:
    """With a sentence."""
    for path in (f"{PREDICTION}/Regress", f"{PREDICTION}/MultiInference"):
        with pytest.raises(grpc.RpcError) as caught:
            call(channel, path, b"\x0a\x00", pb.PredictResponse)
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
        assert "call Predict or Classify" in str(caught.value.details())
    with pytest.raises(grpc.RpcError) as caught:
        call(channel, "tensorflow.serving.ModelService/HandleReloadConfigRequest", b"", pb.PredictResponse)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert "LoadModel" in str(caught.value.details())
    request = pb.GetModelMetadataRequest(model_spec=spec(), metadata_field=["other"])
    with pytest.raises(grpc.RpcError) as caught:
        call(channel, f"{PREDICTION}/GetModelMetadata", request, pb.GetModelMetadataResponse)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_metrics_tell_the_dialect(server: ServerProcess, channel: grpc.Channel) -> None:
    """Label `api`."""
    labels = {"api": "tensorflow_serving", "method": "Predict", "model": "stripes", "code": "OK"}
    before = server.metric("convserve_requests_total", **labels)
    predict(channel, predict_request(numbers(IMAGES)))
    until(lambda: server.metric("convserve_requests_total", **labels) == before + 1)  # counted once the reply has left
