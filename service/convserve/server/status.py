"""Domain errors to gRPC statuses: the one table."""

from __future__ import annotations

from collections.abc import Sequence

import grpc
from google.protobuf import any_pb2, duration_pb2

from convserve import errors
from convserve.v1 import error_details_pb2 as details_pb

_CODES: dict[type[errors.ConvserveError], grpc.StatusCode] = {
    errors.InvalidRequestError: grpc.StatusCode.INVALID_ARGUMENT,
    errors.NotFoundError: grpc.StatusCode.NOT_FOUND,
    errors.VersionNotAvailableError: grpc.StatusCode.FAILED_PRECONDITION,
    errors.OverloadedError: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.DeadlineError: grpc.StatusCode.DEADLINE_EXCEEDED,
    errors.UnavailableError: grpc.StatusCode.UNAVAILABLE,
    errors.UnauthenticatedError: grpc.StatusCode.UNAUTHENTICATED,
    errors.PermissionDeniedError: grpc.StatusCode.PERMISSION_DENIED,
    errors.CancelledError: grpc.StatusCode.CANCELLED,
    errors.UnsupportedError: grpc.StatusCode.UNIMPLEMENTED,
}

REQUEST_ID_KEY = "x-request-id"
_DETAILS_KEY = "grpc-status-details-bin"
_TEXT_LENGTH = 400
_TYPE_URL = "type.googleapis.com/google.rpc."


class Status(grpc.Status):
    """What a failed call ends with."""

    def __init__(
        self, code: grpc.StatusCode, details: str, trailing_metadata: Sequence[tuple[str, str | bytes]]
    ) -> None:
        """Bind code, sentence and trailers."""
        self.code = code
        self.details = details
        self.trailing_metadata = tuple(trailing_metadata)


def code_of(error: BaseException) -> grpc.StatusCode:
    """The status code of an error; INTERNAL for anything unexpected."""
    return _CODES.get(type(error), grpc.StatusCode.INTERNAL)  # type: ignore[arg-type]


def status_of(error: BaseException, request_id: str) -> Status:
    """Turn an error into a status with details.

    Unexpected errors become a fixed sentence with the request's id; what went wrong stands in the log only.
    """
    code = code_of(error)
    message = (
        _short(str(error))
        if code is not grpc.StatusCode.INTERNAL
        else f"internal error; the log has request {request_id}"
    )
    trailers: list[tuple[str, str | bytes]] = [(REQUEST_ID_KEY, request_id)]
    details = _details(error)
    if details:
        packed = details_pb.ErrorStatus(code=code.value[0], message=message, details=details)
        trailers.append((_DETAILS_KEY, packed.SerializeToString()))
    return Status(code, message, trailers)


def _details(error: BaseException) -> list[any_pb2.Any]:
    if isinstance(error, errors.InvalidRequestError) and error.violations:
        violations = [
            details_pb.BadRequest.FieldViolation(
                field=_short(violation.field), description=_short(violation.description)
            )
            for violation in error.violations
        ]
        return [_pack("BadRequest", details_pb.BadRequest(field_violations=violations).SerializeToString())]
    if isinstance(error, errors.OverloadedError):
        delay = duration_pb2.Duration()
        delay.FromNanoseconds(round(error.retry_after_seconds * 1e9))
        return [_pack("RetryInfo", details_pb.RetryInfo(retry_delay=delay).SerializeToString())]
    return []


def _short(text: str) -> str:
    """Cut a sentence that quotes too much of what the caller sent: calls break when their trailers are too large."""
    return text if len(text) <= _TEXT_LENGTH else f"{text[: _TEXT_LENGTH - 1]}…"


def _pack(name: str, value: bytes) -> any_pb2.Any:
    return any_pb2.Any(type_url=_TYPE_URL + name, value=value)
