"""ModelInferRequest to engine.Request."""

from __future__ import annotations

from collections.abc import Sequence

from convserve.arrays import Images
from convserve.clock import monotonic
from convserve.engine import Request
from convserve.errors import InvalidRequestError
from convserve.manifest import INPUT_NAME
from convserve.open_inference.v2 import infer_pb2 as pb
from convserve.server.call import Call
from convserve.server.choice import version_or_alias
from convserve.server.open_inference import parameters, tensors
from convserve.server.pixels import to_pixels

_FIELD = "inputs[0]"


def holds_files(message: pb.ModelInferRequest) -> bool:
    """Whether the images are files, which have to be decoded. A request with several inputs is refused anyway."""
    inputs = message.inputs
    return len(inputs) > 0 and inputs[0].datatype == "BYTES"


def read(message: pb.ModelInferRequest, call: Call) -> Request:
    """Turn a message into a request, and bring the call's deadline forward if a parameter says so.

    Raises:
        InvalidRequestError: names the field.
        UnsupportedError: a sequence or shared memory is named.
    """
    if not message.model_name:
        raise InvalidRequestError.of("model_name", "is empty; name the model")
    given = parameters.read(message.parameters)
    if given:
        parameters.refuse_sequences(given)
        parameters.check_final_response(given)
        timeout = parameters.timeout_seconds(given)
        if timeout is not None:
            call.deadline = min(call.deadline, monotonic() + timeout)
    version, alias = version_or_alias(message.model_version, "model_version")
    images, field = _images(message, parameters.pixel_range(given))
    request_id, priority = message.id or call.request_id, parameters.priority(given)
    return Request(message.model_name, images, field, version, alias, request_id, call.deadline, priority, call)


def _images(message: pb.ModelInferRequest, pixel_range: str) -> tuple[Images | Sequence[bytes], str]:
    """The images, and where they lie in the message."""
    inputs = message.inputs
    tensor = inputs[0] if len(inputs) == 1 else None
    if tensor is None or tensor.name != INPUT_NAME:
        names = [one.name for one in inputs[:4]]
        raise InvalidRequestError.of("inputs", f"{len(inputs)} came, {names}; the model takes one, {INPUT_NAME!r}")
    parameters.refuse_shared_memory(parameters.read(tensor.parameters, f"{_FIELD}.parameters"))
    raw = _raw(message, tensor)
    if tensor.datatype == "BYTES":
        field = f"{_FIELD}.contents.bytes_contents" if raw is None else "raw_input_contents[0]"
        return tensors.read_files(tensor, raw, _FIELD), field
    field = f"{_FIELD}.contents" if raw is None else "raw_input_contents[0]"
    return to_pixels(tensors.read_numbers(tensor, raw, _FIELD), pixel_range, field), f"{_FIELD}.shape"


def _raw(message: pb.ModelInferRequest, tensor: tensors.Tensor) -> bytes | None:
    """The raw elements of the input, or None when they are typed."""
    entries = message.raw_input_contents
    if not entries:
        return None
    if len(entries) != 1:
        raise InvalidRequestError.of(
            "raw_input_contents", f"{len(entries)} entries came; there is one for each input, and one input"
        )
    if tensor.HasField("contents") and tensor.contents.ListFields():
        raise InvalidRequestError.of(f"{_FIELD}.contents", "came beside raw_input_contents; send one of the two")
    return entries[0]
