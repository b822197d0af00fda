"""Which requests get a line in the log."""

from __future__ import annotations

from typing import Any

import grpc
import pytest
import structlog

from convserve.server.access_log import AccessLog
from convserve.server.call import Call


def call(request_id: str) -> Call:
    """A request that is known to the engine."""
    made = Call("convserve.v1", [("x-request-id", request_id)], None)
    made.model, made.version, made.rows = "mnist", 4, 3
    return made


def lines(log: AccessLog, *codes: grpc.StatusCode) -> list[Any]:
    """What is logged of requests that end with these codes."""
    with structlog.testing.capture_logs() as captured:
        for number, code in enumerate(codes):
            log.note(call(f"id-{number}"), "Classify", code, 0.25)
    return captured


def test_a_line_says_who_what_and_how_long() -> None:
    """Nothing else: no field is large, none comes from an image."""
    (line,) = lines(AccessLog(1.0), grpc.StatusCode.OK)
    assert line == {
        "event": "request",
        "log_level": "info",
        "request_id": "id-0",
        "api": "convserve.v1",
        "method": "Classify",
        "model": "mnist",
        "version": 4,
        "rows": 3,
        "code": "OK",
        "seconds": 0.25,
    }


@pytest.mark.parametrize(("share", "at_least", "at_most"), [(0.0, 0, 0), (0.1, 150, 250), (1.0, 2000, 2000)])
def test_a_share_of_the_answered_requests_has_lines(share: float, at_least: int, at_most: int) -> None:
    """About as many as were asked for."""
    assert at_least <= len(lines(AccessLog(share), *[grpc.StatusCode.OK] * 2000)) <= at_most


def test_the_request_id_decides() -> None:
    """So every server that sees a request logs it, or none does."""
    chosen = [{line["request_id"] for line in lines(AccessLog(0.2), *[grpc.StatusCode.OK] * 200)} for _ in range(2)]
    assert chosen[0] == chosen[1] != set()


def test_failures_always_have_a_line() -> None:
    """The caller's own affair as information, the rest as a warning."""
    found = lines(AccessLog(0.0), grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.RESOURCE_EXHAUSTED)
    assert [(line["code"], line["log_level"]) for line in found] == [
        ("INVALID_ARGUMENT", "info"),
        ("RESOURCE_EXHAUSTED", "warning"),
    ]


def test_a_flood_of_failures_does_not_become_a_flood_of_lines() -> None:
    """50 in a second; the first line after says how many there were besides."""
    now = 7.0
    log = AccessLog(0.0, clock=lambda: now)
    assert len(lines(log, *[grpc.StatusCode.RESOURCE_EXHAUSTED] * 500)) == 50
    now = 8.0
    (line,) = lines(log, grpc.StatusCode.RESOURCE_EXHAUSTED)
    assert line["failures_left_out"] == 450
