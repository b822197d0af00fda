"""Calls every method with TensorFlow Serving's stubs. Runs in an environment of its own: `… TARGET DIRECTORY`.

TensorFlow's messages come from the folder in the variable TENSORFLOW, without importing TensorFlow itself.
"""

from __future__ import annotations

import json
import os
import sys
import types
from pathlib import Path
from typing import Any

package = types.ModuleType("tensorflow")
package.__path__ = [os.environ["TENSORFLOW"]]
sys.modules["tensorflow"] = package
# This script is not the package of the same name.
sys.path = [path for path in sys.path if not path.endswith("clients")]

import grpc
import numpy as np
from tensorflow.core.example import example_pb2, feature_pb2
from tensorflow.core.framework import tensor_pb2, tensor_shape_pb2, types_pb2
from tensorflow.core.protobuf import meta_graph_pb2
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    inference_pb2,
    input_pb2,
    model_management_pb2,
    model_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
    regression_pb2,
    status_pb2,
)

target, directory = sys.argv[1], Path(sys.argv[2])
images = np.load(directory / "mnist/images.npy")
versions = json.loads(os.environ["VERSIONS"])
found: dict[str, Any] = {}
arrays: dict[str, Any] = {}
channel = grpc.insecure_channel(target)
prediction = prediction_service_pb2_grpc.PredictionServiceStub(channel)
models = model_service_pb2_grpc.ModelServiceStub(channel)


def tensor(values: Any, dtype: int, field: str = "") -> Any:
    """A TensorProto; `field` names a typed field."""
    made = tensor_pb2.TensorProto(dtype=dtype)
    for size in values.shape:
        made.tensor_shape.dim.add(size=size)
    if field:
        getattr(made, field).extend(values.ravel().tolist())
    else:
        made.tensor_content = values.tobytes()
    return made


def predict(given: Any, outputs: tuple[str, ...] = (), **spec: Any) -> Any:
    """The reply of Predict."""
    request = predict_pb2.PredictRequest(output_filter=outputs)
    request.model_spec.name = spec.get("name", "mnist")
    request.model_spec.signature_name = spec.get("signature", "serving_default")
    if "version" in spec:
        request.model_spec.version.value = spec["version"]
    if "label" in spec:
        request.model_spec.version_label = spec["label"]
    request.inputs["image"].CopyFrom(given)
    return prediction.Predict(request, timeout=30)


def values_of(reply: Any, name: str = "probabilities") -> Any:
    """An output as callers read it."""
    output = reply.outputs[name]
    return np.array(output.float_val).reshape([dim.size for dim in output.tensor_shape.dim])


def failure(call: Any, *args: Any, **kwargs: Any) -> list[str]:
    """Status and message of a call that must fail."""
    try:
        call(*args, **kwargs)
    except grpc.RpcError as error:
        return [error.code().name, error.details()]
    return ["no error", ""]


def crowd(at: Any, request: Any) -> None:
    """Send more at once than the queue holds; raises what the first request that was refused got."""
    calls = [at.Predict.future(request, timeout=30) for _ in range(64)]
    raise next(error for error in (call.exception() for call in calls) if error)


def described(messages: Any) -> Any:
    """Full name and fields of messages and of those inside them."""
    for message in messages:
        yield (
            message.full_name,
            [
                [
                    *(field.name, field.number, field.type, field.is_repeated),
                    getattr(field.message_type or field.enum_type, "full_name", ""),
                ]
                for field in message.fields
            ],
        )
        yield from described(message.nested_types)


def encoded(files: list[bytes]) -> Any:
    """Image files as a tensor."""
    made = tensor_pb2.TensorProto(dtype=types_pb2.DT_STRING, string_val=files)
    made.tensor_shape.dim.add(size=len(files))
    return made


def classify(model: str, files: list[bytes]) -> Any:
    """The reply of Classify."""
    request = classification_pb2.ClassificationRequest()
    request.model_spec.name = model
    for file in files:
        example = request.input.example_list.examples.add()
        example.features.feature["image/encoded"].bytes_list.value.append(file)
    return prediction.Classify(request, timeout=30)


def labels_of(model: str) -> list[str]:
    """The classes' names in their order."""
    return (Path(os.environ["MODELS"]) / model / "labels.txt").read_text().splitlines()


for model in ("mnist", "cifar10"):
    pixels = np.load(directory / model / "images.npy")
    files = [file.read_bytes() for file in sorted((directory / model).glob("*.png"))]
    floats = pixels.astype(np.float32)
    unit = (pixels / 255).astype(np.float32)
    for name, reply in {
        "content": predict(tensor(pixels, types_pb2.DT_UINT8), name=model),
        "typed": predict(tensor(pixels, types_pb2.DT_UINT8, "int_val"), name=model, version=versions[model]),
        "float": predict(tensor(floats, types_pb2.DT_FLOAT), name=model, label="stable"),
        "float_typed": predict(tensor(floats, types_pb2.DT_FLOAT, "float_val"), name=model),
        "unit": predict(tensor(unit, types_pb2.DT_FLOAT), name=model, signature="unit_range"),
        "files": predict(encoded(files), name=model),
        "files_signature": predict(encoded(files), name=model, signature="encoded_images"),
    }.items():
        arrays[f"{model} {name}"] = values_of(reply)
    labels = labels_of(model)
    entries = classify(model, files).result.classifications
    arrays[f"{model} classified"] = np.array(
        [[one.score for one in sorted(entry.classes, key=lambda one: labels.index(one.label))] for entry in entries]
    )
    found[f"{model} first_class"] = [labels.index(entry.classes[0].label) for entry in entries]

pixels = tensor(images, types_pb2.DT_UINT8)
unit = tensor((images / 255).astype(np.float32), types_pb2.DT_FLOAT)
reply = predict(pixels, outputs=("logits",))
found["spec"] = [reply.model_spec.name, reply.model_spec.version.value, reply.model_spec.signature_name]
found["filtered"] = sorted(reply.outputs)

metadata_request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
metadata_request.model_spec.name = "mnist"
metadata = prediction.GetModelMetadata(metadata_request).metadata["signature_def"]
signatures = get_model_metadata_pb2.SignatureDefMap()
found["unpacked"] = metadata.Unpack(signatures)
found["signatures"] = sorted(signatures.signature_def)
image = signatures.signature_def["serving_default"].inputs["image"]
found["image"] = [image.dtype, [dim.size for dim in image.tensor_shape.dim]]

status_request = get_model_status_pb2.GetModelStatusRequest()
status_request.model_spec.name = "mnist"
states = get_model_status_pb2.ModelVersionStatus.State
found["status"] = {
    str(one.version): states.Name(one.state) for one in models.GetModelStatus(status_request).model_version_status
}

status_request.model_spec.name = "other"
found["errors"] = {
    "unknown model": failure(predict, pixels, name="other"),
    "unknown version": failure(predict, pixels, version=999),
    "unknown label": failure(predict, pixels, label="nobody"),
    "unknown signature": failure(predict, pixels, signature="other"),
    "unknown output": failure(predict, pixels, outputs=("scores",)),
    "fractions": failure(predict, unit),
    "status": failure(models.GetModelStatus, status_request),
    "regress": failure(prediction.Regress, regression_pb2.RegressionRequest()),
    "multi": failure(prediction.MultiInference, inference_pb2.MultiInferenceRequest()),
    "reload": failure(models.HandleReloadConfigRequest, model_management_pb2.ReloadConfigRequest()),
}

narrow = prediction_service_pb2_grpc.PredictionServiceStub(grpc.insecure_channel(os.environ["NARROW"]))
request = predict_pb2.PredictRequest()
request.model_spec.name = "mnist"
request.inputs["image"].CopyFrom(pixels)
few = predict_pb2.PredictRequest()
few.model_spec.name = "mnist"
few.inputs["image"].CopyFrom(tensor(images[:5], types_pb2.DT_UINT8))
found["errors"]["full queue"] = failure(crowd, narrow, few)
found["errors"]["deadline"] = failure(prediction.Predict, request, timeout=0.002)
classify_request = classification_pb2.ClassificationRequest()
classify_request.model_spec.name = "mnist"
found["errors"]["no examples"] = failure(prediction.Classify, classify_request)
metadata_request.metadata_field[:] = ["other"]
found["errors"]["metadata"] = failure(prediction.GetModelMetadata, metadata_request)

modules = (predict_pb2, classification_pb2, input_pb2, model_pb2, status_pb2, get_model_metadata_pb2)
tensorflow_modules = (tensor_pb2, tensor_shape_pb2, example_pb2, feature_pb2, meta_graph_pb2)
found["definitions"] = {
    name: fields
    for module in (*modules, get_model_status_pb2, *tensorflow_modules)
    for name, fields in described(module.DESCRIPTOR.message_types_by_name.values())
}
found["types"] = dict(types_pb2.DataType.items())
np.savez(directory / "arrays.npz", **arrays)
json.dump(found, sys.stdout)
