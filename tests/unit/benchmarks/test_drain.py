"""A drain that cuts calls must not look like one that refuses them."""

from __future__ import annotations

import grpc
import pytest

from benchmarks.drain import outcome
from convserve.server.rpc import DRAINING


class Failure(grpc.RpcError):
    """A call's error, as a channel raises it."""

    def __init__(self, code: grpc.StatusCode, details: str) -> None:
        self._code, self._details = code, details

    def code(self) -> grpc.StatusCode:
        """Its status."""
        return self._code

    def details(self) -> str:
        """Its text."""
        return self._details


@pytest.mark.parametrize(
    ("code", "details", "expected"),
    [
        (grpc.StatusCode.UNAVAILABLE, DRAINING, "refused"),
        (grpc.StatusCode.UNAVAILABLE, "failed to connect to all addresses; last error: UNKNOWN: refused", "refused"),
        (grpc.StatusCode.UNAVAILABLE, "Socket closed", "UNAVAILABLE"),
        (grpc.StatusCode.UNAVAILABLE, "recvmsg:Connection reset by peer", "UNAVAILABLE"),
        (grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded", "DEADLINE_EXCEEDED"),
    ],
)
def test_a_cut_connection_is_a_lost_call(code: grpc.StatusCode, details: str, expected: str) -> None:
    """Both have one status; only the text tells them apart."""
    assert outcome(Failure(code, details)) == expected
