"""The access log: a line for a share of the requests, and for those that fail. Never a byte of an image."""

from __future__ import annotations

import threading
import zlib
from typing import TYPE_CHECKING, Any

import grpc
import structlog

from convserve.clock import Clock, monotonic

if TYPE_CHECKING:
    from convserve.server.call import Call

log = structlog.get_logger(__name__)

_FAILURES_PER_SECOND = 50
"""Lines about failures in one second, at most; an overload must not be made worse by telling of it."""

_EXPECTED = frozenset({grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND, grpc.StatusCode.CANCELLED})
"""Failures that are the caller's own affair."""


class AccessLog:
    """Writes lines. Thread-safe."""

    def __init__(self, share: float, clock: Clock = monotonic) -> None:
        """Tell of `share` (0..1) of the requests that were answered, chosen by request id, and of failures."""
        self._threshold = round(share * 2**32)
        self._clock = clock
        self._lock = threading.Lock()
        self._second = 0
        self._failures = 0
        self._left_out = 0

    def note(self, call: Call, method: str, code: grpc.StatusCode, seconds: float) -> None:
        """Tell of a request that has ended, or not."""
        left_out = 0
        if code is grpc.StatusCode.OK:
            if not self._threshold or zlib.crc32(call.request_id.encode()) >= self._threshold:
                return
        elif (counted := self._count_failure()) is None:
            return
        else:
            left_out = counted
        facts: dict[str, Any] = {
            "request_id": call.request_id,
            "api": call.api,
            "method": method,
            "model": call.model,
            "version": call.version,
            "rows": call.rows,
            "code": code.name,
            "seconds": round(seconds, 6),
        }
        if call.trace_id:
            facts["trace_id"] = call.trace_id
        if left_out:
            facts["failures_left_out"] = left_out
        if code is grpc.StatusCode.OK or code in _EXPECTED:
            log.info("request", **facts)
        else:
            log.warning("request", **facts)

    def _count_failure(self) -> int | None:
        """Whether a failure gets a line: how many before it got none, or None."""
        with self._lock:
            second = int(self._clock())
            if second != self._second:
                self._second, self._failures = second, 0
            self._failures += 1
            if self._failures > _FAILURES_PER_SECOND:
                self._left_out += 1
                return None
            left_out, self._left_out = self._left_out, 0
            return left_out
