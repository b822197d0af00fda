"""Every error that crosses a boundary, without a word of gRPC.

Server and client share this file. The way of an error::

    engine raises  ->  server/status.py turns it into a gRPC status with details
                                        |
    caller catches <-  client/status.py turns the status back into the same class
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class FieldViolation:
    """One wrong field of a request: its path, and what came and what is wanted."""

    field: str
    description: str


class ConvserveError(Exception):
    """Base of all errors of convserve."""

    request_id: str = ""
    """Id of the request in the server's logs; set on errors that came back from a server."""


class InvalidRequestError(ConvserveError):
    """A field of the request is wrong. The message names the field, what came and what is wanted."""

    def __init__(self, message: str, violations: tuple[FieldViolation, ...] = ()) -> None:
        super().__init__(message)
        self.violations = violations
        """The wrong fields, one by one."""

    @classmethod
    def of(cls, field: str, description: str) -> InvalidRequestError:
        """Make the error for a single field."""
        return cls(f"{field}: {description}", (FieldViolation(field, description),))


class NotFoundError(ConvserveError):
    """No such model, version or alias."""


class VersionNotAvailableError(ConvserveError):
    """The version exists and cannot answer: failed, loading, or unloaded."""


class OverloadedError(ConvserveError):
    """The queue is full. Nothing was computed."""

    def __init__(self, message: str, retry_after_seconds: float = 0.0) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds
        """How long to wait before the next try, in seconds; 0 when the server gave no hint."""


class DeadlineError(ConvserveError):
    """The deadline has passed, or was refused at once because it could not be met."""


class UnavailableError(ConvserveError):
    """The server is loading, draining, or cannot be reached. Trying elsewhere or later is right."""


class UnauthenticatedError(ConvserveError):
    """No credentials came, or wrong ones."""


class PermissionDeniedError(ConvserveError):
    """The credentials are good, and do not allow this method."""


class CancelledError(ConvserveError):
    """The caller gave the call up."""


class ClosedError(ConvserveError):
    """The client was closed, or belongs to another process or event loop. Nothing was sent."""


class UnsupportedError(ConvserveError):
    """The method is not offered by this server."""


class InternalError(ConvserveError):
    """The server failed. Its log tells the story under the request id; the message never does."""


class ArtifactError(ConvserveError):
    """A version directory is damaged or does not do what its manifest promises; names the file and why."""


class ConfigError(ConvserveError):
    """A setting is wrong; names the setting, what came and what is wanted."""


class RuntimeNotInstalledError(ConvserveError):
    """A runtime or device was asked for that this installation does not have; names the extra to install."""
