"""Trace context travels when the application uses OpenTelemetry."""

from __future__ import annotations

import subprocess
import sys
from types import ModuleType

import pytest

from convserve import Client
from convserve.client import tracing
from support.fake_server import FakeServer

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture
def opentelemetry(monkeypatch: pytest.MonkeyPatch) -> None:
    """The two modules of OpenTelemetry's API that matter here, as an application would have loaded them."""
    propagate = ModuleType("opentelemetry.propagate")
    propagate.inject = lambda carrier: carrier.update({"Traceparent": PARENT})  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "opentelemetry", ModuleType("opentelemetry"))
    monkeypatch.setitem(sys.modules, "opentelemetry.propagate", propagate)


@pytest.mark.usefixtures("opentelemetry")
def test_the_trace_context_travels(fake: FakeServer) -> None:
    """With one image and with many."""
    with Client(fake.target) as client:
        client.classify(b"\x01", model="m")
        client.classify(b"\x01", model="m", request_id="own")
        client.classify_batch([b"\x01"], model="m")
    assert [data["traceparent"] for data in fake.metadata] == [PARENT] * 3


def test_without_it_nothing_travels(fake: FakeServer) -> None:
    """And nothing is loaded."""
    with Client(fake.target) as client:
        client.classify(b"\x01", model="m")
    assert "traceparent" not in fake.metadata[0]
    code = "import sys, convserve.client.tracing as t; assert t.current() == (); print('opentelemetry' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


def test_a_part_of_opentelemetry_is_no_trouble(monkeypatch: pytest.MonkeyPatch) -> None:
    """A namespace without the API has no context to give."""
    monkeypatch.setitem(sys.modules, "opentelemetry", ModuleType("opentelemetry"))
    monkeypatch.setitem(sys.modules, "opentelemetry.propagate", None)
    assert tracing.current() == ()
