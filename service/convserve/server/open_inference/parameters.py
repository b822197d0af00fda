"""Parameters of a request: values of several types by name."""

from __future__ import annotations

from collections.abc import Mapping

from convserve.batching import Priority
from convserve.errors import InvalidRequestError, UnsupportedError
from convserve.open_inference.v2 import infer_pb2 as pb
from convserve.server.pixels import BYTE_RANGE, RANGES

Parameters = Mapping[str, pb.InferParameter]

PRIORITY_LEVELS = 3
"""Highest priority is 1, as Triton counts."""
DEFAULT_PRIORITY_LEVEL = 2

_MOST = 1000
"""Parameters of one request that are read; a few have a meaning."""

_PRIORITIES = {0: Priority.NORMAL, 1: Priority.HIGH, 2: Priority.NORMAL}


def read(parameters: Parameters, field: str = "parameters") -> Parameters:
    """The same as a dictionary: most requests have none, and looking for each name in protobuf's map takes long.

    Raises:
        InvalidRequestError: there are so many that reading them would stop every other call.
    """
    if len(parameters) > _MOST:
        raise InvalidRequestError.of(field, f"{len(parameters)} came; at most {_MOST} are read")
    return dict(parameters) if parameters else {}


def priority(parameters: Parameters) -> Priority:
    """`priority`: 1 is high, 2 normal, 3 and more low; 0 or missing is normal."""
    return _PRIORITIES.get(integer(parameters, "priority", "parameters"), Priority.LOW)


def timeout_seconds(parameters: Parameters) -> float | None:
    """`timeout` in microseconds; None when it is 0 or missing."""
    microseconds = integer(parameters, "timeout", "parameters")
    return microseconds / 1e6 if microseconds else None


def pixel_range(parameters: Parameters) -> str:
    """`pixel_range`, one of `RANGES`."""
    if "pixel_range" not in parameters:
        return BYTE_RANGE
    value = parameters["pixel_range"]
    if value.WhichOneof("parameter_choice") != "string_param" or value.string_param not in RANGES:
        raise InvalidRequestError.of(
            "parameters['pixel_range']", f"must be the text {' or '.join(map(repr, RANGES))}; see the model's metadata"
        )
    return value.string_param


def refuse_sequences(parameters: Parameters) -> None:
    """Refuse requests that belong together: images are classified one by one.

    Raises:
        UnsupportedError: a sequence is named.
    """
    for name in ("sequence_id", "sequence_start", "sequence_end"):
        if name in parameters and any(value for _, value in parameters[name].ListFields()):
            raise UnsupportedError(f"parameters[{name!r}] is set; the models here keep no state between requests")


def refuse_shared_memory(parameters: Parameters) -> None:
    """Refuse tensors that are not in the message.

    Raises:
        UnsupportedError: a region of shared memory is named.
    """
    if "shared_memory_region" in parameters:
        raise UnsupportedError("shared memory is not offered; send tensors in the message")


def explain(parameters: Parameters) -> bool:
    """`explain`: whether the reply should tell how the request was batched."""
    return _flag(parameters, "explain")


def check_final_response(parameters: Parameters) -> None:
    """Check `triton_enable_empty_final_response`, and do nothing about it.

    It asks for an empty reply where the last one was not known to be the last when it was sent. Here each request of a
    stream has one reply, which says that it is the last.
    """
    _flag(parameters, "triton_enable_empty_final_response")


def integer(parameters: Parameters, name: str, field: str) -> int:
    """A whole number of at least 0; 0 when it is missing.

    Raises:
        InvalidRequestError: it is something else.
    """
    if name not in parameters:
        return 0
    value = parameters[name]
    kind = value.WhichOneof("parameter_choice")
    if kind not in ("int64_param", "uint64_param"):
        raise InvalidRequestError.of(f"{field}[{name!r}]", "must be an int64_param or a uint64_param")
    number = value.int64_param if kind == "int64_param" else value.uint64_param
    if number < 0:
        raise InvalidRequestError.of(f"{field}[{name!r}]", f"{number} came; it must be 0 or more")
    return number


def _flag(parameters: Parameters, name: str) -> bool:
    """True or false; false when it is missing.

    Raises:
        InvalidRequestError: it is something else.
    """
    if name not in parameters:
        return False
    if parameters[name].WhichOneof("parameter_choice") != "bool_param":
        raise InvalidRequestError.of(f"parameters[{name!r}]", "must be a bool_param")
    return parameters[name].bool_param
