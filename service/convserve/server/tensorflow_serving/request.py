"""PredictRequest and ClassificationRequest to engine.Request."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from convserve.arrays import Images
from convserve.engine import Request
from convserve.errors import InvalidRequestError
from convserve.manifest import INPUT_NAME
from convserve.server.call import Call
from convserve.server.pixels import BYTE_RANGE, UNIT_RANGE, to_pixels
from convserve.server.tensorflow_serving import signatures, tensors
from convserve.tensorflow_core.v1 import example_pb2, tensor_pb2
from convserve.tensorflow_serving.v1 import model_pb2
from convserve.tensorflow_serving.v1 import prediction_pb2 as pb

_IMAGE_FIELD = f"inputs[{INPUT_NAME!r}]"
_FEATURE = "image/encoded"
_MAX_EXAMPLES = 65_536
"""Examples that are looked at, at most: two bytes make one, and no request takes as many images."""


def holds_files(message: pb.PredictRequest) -> bool:
    """Whether the images are files, which have to be decoded. A request with several inputs is refused anyway."""
    inputs = message.inputs
    return len(inputs) == 1 and INPUT_NAME in inputs and inputs[INPUT_NAME].dtype == tensor_pb2.DT_STRING


def read_predict(message: pb.PredictRequest, call: Call) -> Request:
    """Turn a message into a request.

    Raises:
        InvalidRequestError: names the field.
    """
    signature = signatures.choose(message.model_spec.signature_name, signatures.PREDICT_SIGNATURES)
    if len(message.inputs) != 1 or INPUT_NAME not in message.inputs:
        names = sorted(itertools.islice(message.inputs, 4))  # some of them: there may be millions
        raise InvalidRequestError.of(
            "inputs", f"{len(message.inputs)} came, {names}; the model takes one, {INPUT_NAME!r}"
        )
    images = _images(message.inputs[INPUT_NAME], signature)
    field = f"{_IMAGE_FIELD}.{'string_val' if isinstance(images, list) else 'tensor_shape'}"
    return _request(message.model_spec, images, field, call)


def read_classify(message: pb.ClassificationRequest, call: Call) -> Request:
    """Turn a message into a request.

    Raises:
        InvalidRequestError: names the field.
    """
    signatures.choose(message.model_spec.signature_name, signatures.CLASSIFY_SIGNATURES)
    return _request(message.model_spec, _example_files(message.input), "input.examples", call)


def read_version(spec: model_pb2.ModelSpec) -> tuple[int | None, str]:
    """Number of the version, or None, and alias, or an empty text.

    Raises:
        InvalidRequestError: the model's name is empty, the number is below 1, or the label is empty.
    """
    if not spec.name:
        raise InvalidRequestError.of("model_spec.name", "is empty; name the model")
    choice = spec.WhichOneof("version_choice")
    if choice == "version":
        if spec.version.value < 1:
            raise InvalidRequestError.of("model_spec.version", f"{spec.version.value} came; versions are 1 or higher")
        return spec.version.value, ""
    if choice == "version_label" and not spec.version_label:
        raise InvalidRequestError.of("model_spec.version_label", "is empty; name one, or leave it out")
    return None, spec.version_label


def _request(spec: model_pb2.ModelSpec, images: Images | Sequence[bytes], field: str, call: Call) -> Request:
    version, alias = read_version(spec)
    return Request(
        spec.name,
        images,
        field,
        version=version,
        alias=alias,
        request_id=call.request_id,
        deadline=call.deadline,
        trail=call,
    )


def _images(tensor: tensor_pb2.TensorProto, signature: str) -> Images | list[bytes]:
    is_files = tensor.dtype == tensor_pb2.DT_STRING
    if (signature == signatures.ENCODED and not is_files) or (signature == signatures.UNIT_RANGE and is_files):
        raise InvalidRequestError.of(
            f"{_IMAGE_FIELD}.dtype",
            f"{tensors.type_name(tensor.dtype)} came, which signature {signature!r} does not take",
        )
    if is_files:
        return tensors.read_files(tensor, _IMAGE_FIELD)
    numbers = tensors.read_numbers(tensor, _IMAGE_FIELD)
    return to_pixels(numbers, UNIT_RANGE if signature == signatures.UNIT_RANGE else BYTE_RANGE, _IMAGE_FIELD)


def _example_files(message: pb.Input) -> list[bytes]:
    """The image file of each example; a feature of the context stands for those that an example does not have."""
    kind = message.WhichOneof("kind")
    if kind is None:
        raise InvalidRequestError.of("input", "is missing; set example_list or example_list_with_context")
    holder = message.example_list if kind == "example_list" else message.example_list_with_context
    if len(holder.examples) > _MAX_EXAMPLES:
        raise InvalidRequestError.of(
            "input.examples", f"{len(holder.examples)} came; that is more than any model takes"
        )
    shared = _files_in(message.example_list_with_context.context) if kind != "example_list" else []
    files = []
    for index, example in enumerate(holder.examples):
        values = _files_in(example) if _FEATURE in example.features.feature else shared
        if len(values) != 1:
            raise InvalidRequestError.of(
                f"input.examples[{index}]",
                f"has {len(values)} values in a bytes_list {_FEATURE!r}; each example has one image file there",
            )
        files.append(values[0])
    return files


def _files_in(example: example_pb2.Example) -> list[bytes]:
    """The values of the image feature: copies, as protobuf makes them at every access."""
    features = example.features.feature
    return list(features[_FEATURE].bytes_list.value) if _FEATURE in features else []
