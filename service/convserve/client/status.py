"""gRPC statuses to the error classes of `convserve.errors`: the mirror of `server/status.py`."""

from __future__ import annotations

import copy
import re
from typing import cast

import grpc
from google.protobuf.message import DecodeError

from convserve import errors
from convserve.v1 import error_details_pb2 as details_pb

REQUEST_ID_KEY = "x-request-id"

_DETAILS_KEY = "grpc-status-details-bin"
_TYPE_URL = "type.googleapis.com/google.rpc."

_CLASSES: dict[grpc.StatusCode, type[errors.ConvserveError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: errors.InvalidRequestError,
    grpc.StatusCode.NOT_FOUND: errors.NotFoundError,
    grpc.StatusCode.FAILED_PRECONDITION: errors.VersionNotAvailableError,
    grpc.StatusCode.RESOURCE_EXHAUSTED: errors.OverloadedError,
    grpc.StatusCode.DEADLINE_EXCEEDED: errors.DeadlineError,
    grpc.StatusCode.UNAVAILABLE: errors.UnavailableError,
    grpc.StatusCode.UNAUTHENTICATED: errors.UnauthenticatedError,
    grpc.StatusCode.PERMISSION_DENIED: errors.PermissionDeniedError,
    grpc.StatusCode.CANCELLED: errors.CancelledError,
    grpc.StatusCode.UNIMPLEMENTED: errors.UnsupportedError,
}
"""The class for each code; InternalError for all others."""

_TOO_LARGE = "larger than max"
"""What gRPC says, with RESOURCE_EXHAUSTED, about a message beyond one side's limit. Waiting would not help."""

SERVER_IS_GONE = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
"""What a call ends with whose server could not be reached, is going away, or is gone."""

_POSITION = re.compile(r"\bencoded\.images\[(\d+)\]")


def error_of(failure: grpc.RpcError, request_id: str, first_image: int = 0) -> errors.ConvserveError:
    """Turn the failure of an RPC into the error that the server meant.

    Args:
        failure: what grpc raised; a call of its own, with code, details and trailers.
        request_id: the id that was sent.
        first_image: position of the RPC's first image among all images of the caller; positions in the error count
            from the caller's first one.
    """
    call = cast("grpc.Call", failure)
    code, text = call.code(), _shift(call.details() or "", first_image)
    violations, retry_after_seconds = _read_details(call, first_image)
    error: errors.ConvserveError
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED and _TOO_LARGE in text:
        error = errors.InvalidRequestError(
            f"{text}; both sides have a limit: the client's max_message_bytes and the server's limits.max_message_bytes"
        )
    elif code is grpc.StatusCode.INVALID_ARGUMENT:
        error = errors.InvalidRequestError(text, violations)
    elif code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        error = errors.OverloadedError(text, retry_after_seconds)
    else:
        error = _CLASSES.get(code, errors.InternalError)(text or code.name)
    error.request_id = request_id
    return error


def _read_details(call: grpc.Call, first_image: int) -> tuple[tuple[errors.FieldViolation, ...], float]:
    """Field violations, and seconds to wait before the next try; none and 0 when the server gave none."""
    try:
        return _parse_details(call, first_image)
    except DecodeError:  # a proxy's or a foreign server's; the status itself still counts
        return (), 0.0


def _parse_details(call: grpc.Call, first_image: int) -> tuple[tuple[errors.FieldViolation, ...], float]:
    violations: list[errors.FieldViolation] = []
    retry_after_seconds = 0.0
    status = details_pb.ErrorStatus()
    for key, value in call.trailing_metadata() or ():
        if key == _DETAILS_KEY:
            status.ParseFromString(cast("bytes", value))
    for detail in status.details:
        if detail.type_url == f"{_TYPE_URL}BadRequest":
            bad = details_pb.BadRequest.FromString(detail.value)
            violations.extend(
                errors.FieldViolation(_shift(violation.field, first_image), violation.description)
                for violation in bad.field_violations
            )
        elif detail.type_url == f"{_TYPE_URL}RetryInfo":
            delay = details_pb.RetryInfo.FromString(detail.value).retry_delay
            retry_after_seconds = delay.seconds + delay.nanos / 1e9
    return tuple(violations), retry_after_seconds


def closed(request_id: str) -> errors.ConvserveError:
    """The error of a call whose client was closed meanwhile."""
    error = errors.CancelledError("the client was closed")
    error.request_id = request_id
    return error


def without_reply(request_id: str) -> errors.ConvserveError:
    """The error of a call that ended well and without a message, or with one that cannot be read: gRPC gives None."""
    error = errors.InternalError("the server answered without a message that can be read")
    error.request_id = request_id
    return error


def moved(error: errors.ConvserveError, by: int) -> errors.ConvserveError:
    """A copy of an error for one of several callers, with positions of images moved by `by`."""
    made = copy.copy(error)
    made.__cause__ = error.__cause__
    if isinstance(made, errors.InvalidRequestError):
        made.args = (_shift(str(error), by),)
        made.violations = tuple(
            errors.FieldViolation(_shift(violation.field, by), violation.description) for violation in made.violations
        )
    return made


def _shift(text: str, by: int) -> str:
    """Move the positions of images in a text."""
    if by == 0:
        return text
    return _POSITION.sub(lambda match: f"encoded.images[{int(match[1]) + by}]", text)
