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


def test_the_current_span_of_the_real_library_travels(fake: FakeServer) -> None:
    """In a program of its own: threads that share RPCs have traces of their own, and each RPC has one of those."""
    pytest.importorskip("opentelemetry.sdk", reason="the real OpenTelemetry is not installed: NOT tested with it")
    code = """
import asyncio, sys, threading, convserve
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
trace.set_tracer_provider(TracerProvider())
tracer = trace.get_tracer("test")
client, told = convserve.Client(sys.argv[1]), []
def call():
    with tracer.start_as_current_span("work") as span:
        told.append(format(span.get_span_context().trace_id, "032x"))
        client.classify(b"\\x05", model="m")
threads = [threading.Thread(target=call) for _ in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join()
async def main():
    async with convserve.AsyncClient(sys.argv[1]) as other:
        with tracer.start_as_current_span("work") as span:
            told.append(format(span.get_span_context().trace_id, "032x"))
            await other.classify(b"\\x05", model="m")
asyncio.run(main())
print(*told)
"""
    command = [sys.executable, "-c", code, fake.target]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    traces = [str(data["traceparent"]).split("-")[1] for data in fake.metadata]
    assert set(traces) <= set(done.stdout.split())
    assert traces[-1] == done.stdout.split()[-1]


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
