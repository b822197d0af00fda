"""One call: what is known of it before its message is read, and what it leaves behind."""

from __future__ import annotations

import itertools
import math
import secrets
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import grpc

from convserve.batching import Turns
from convserve.clock import monotonic
from convserve.server.access import Group
from convserve.server.status import REQUEST_ID_KEY

if TYPE_CHECKING:
    from convserve.server.tracing import RequestTrace

_ID_LENGTH = 128
_PROCESS = secrets.token_hex(6)
_NUMBERS = itertools.count()
_NO_DEADLINE = 10 * 365 * 86400.0  # gRPC tells a call without a deadline as one that ends far in the future


class Call:
    """What a method may know of the call it answers, and what it leaves behind for logs and traces."""

    __slots__ = ("api", "deadline", "group", "metadata", "model", "request_id", "rows", "trace", "turns", "version")

    def __init__(self, api: str, metadata: Iterable[tuple[str, str | bytes]], seconds_left: float | None) -> None:
        """Read what is known before the request is.

        Args:
            api: which of our APIs was called.
            metadata: what the caller sent along.
            seconds_left: until the caller gives up; None or very many: never.
        """
        self.api = api
        self.metadata = metadata
        """What the caller sent along."""
        self.request_id = _request_id(metadata)
        """The caller's id of the request, or one made here."""
        never = seconds_left is None or seconds_left > _NO_DEADLINE
        self.deadline = math.inf if never else monotonic() + seconds_left  # type: ignore[operator]
        """Reading of the server's clock; infinite when the caller set none."""
        self.turns: Turns | None = None
        """Where the thread that answers the call notes batches that it will run itself; None: others run them."""
        self.model = ""
        """Name of the model for metrics; set by the method once it is known to exist."""
        self.group = Group.INFERENCE
        """Of the method."""
        self.version = 0
        """Number of the version that the request was for; set by the engine."""
        self.rows = 0
        """Images of the request; set by the engine."""
        self.trace: RequestTrace | None = None
        """The request's trace, if it is traced."""

    @property
    def trace_id(self) -> str:
        """Id of the trace, for logs; empty: the request is not traced."""
        return self.trace.trace_id if self.trace is not None else ""


def call_of(api: str, context: grpc.ServicerContext) -> Call:
    """What is known of a call before its request is read."""
    metadata: Any = context.invocation_metadata()
    return Call(api, metadata, context.time_remaining())


def _request_id(metadata: Iterable[tuple[str, str | bytes]]) -> str:
    """The caller's `x-request-id` if it is one that may stand in a log, else a new one."""
    for key, value in metadata:
        if key == REQUEST_ID_KEY and isinstance(value, str) and 0 < len(value) <= _ID_LENGTH:
            if value.isascii() and value.isprintable():
                return value
            break
    return f"{_PROCESS}{next(_NUMBERS):08x}"
