"""OpenTelemetry traces: where the time of one request went, across the services that took part in it.

::

    caller's span ── server span ── queue span ─link─┐
                          │                          ▼
                          └───────────────────── batch span ─link─ server spans of all requests in the batch

The caller's context comes as `traceparent` (https://www.w3.org/TR/trace-context/). A batch has one span however many
requests it holds; it is a child of the first traced one, so that it is kept whenever that one is, and links to all.
Health checks have no spans. Nothing of OpenTelemetry is imported while traces are off.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
import time
from collections.abc import Iterable, Sequence
from typing import Literal

import grpc

import convserve
from convserve.batching import BatchRun, Trace
from convserve.clock import monotonic
from convserve.errors import ConfigError, RuntimeNotInstalledError

try:
    from opentelemetry import propagate, trace
    from opentelemetry.context import Context
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import SERVICE_INSTANCE_ID, SERVICE_NAME, SERVICE_VERSION, Resource
    from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
    from opentelemetry.sdk.trace.export import (
        BatchSpanProcessor,
        ConsoleSpanExporter,
        SimpleSpanProcessor,
    )
except ModuleNotFoundError as error:
    raise RuntimeNotInstalledError(
        f"traces are on, and {error.name} is not installed; pip install 'convserve[otel]'"
    ) from error

_NOT_OURS = ("authorization", "baggage")
"""Metadata that no propagator is shown: baggage goes nowhere from here, and damaged baggage would fill the log."""

_LAST_SPANS_SECONDS = 3.0
"""How long the end of a server may be held up for the sake of its last spans."""

_SERVERS_FAULT = frozenset(
    {
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.UNIMPLEMENTED,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DATA_LOSS,
    }
)
"""Codes that make a server span one with an error, by the semantic conventions for RPC."""


class RequestTrace:
    """The trace of one request: a `Trace` for the batcher."""

    __slots__ = ("_tracer", "span")

    def __init__(self, tracer: trace.Tracer, span: trace.Span) -> None:
        """Bind the server span, which has begun."""
        self._tracer = tracer
        self.span = span
        """The server span."""

    @property
    def trace_id(self) -> str:
        """As it is written in logs and shown in tools."""
        return trace.format_trace_id(self.span.get_span_context().trace_id)

    def batch_ran(self, started: float, parts: Sequence[tuple[Trace, BatchRun]]) -> None:
        """Tell of a batch that has run: one span for it, and one for each request's time in the queue."""
        ours = [(part, run) for part, run in parts if isinstance(part, RequestTrace)]
        run = ours[0][1]
        batch = self._tracer.start_span(
            "batch",
            context=trace.set_span_in_context(self.span),
            links=[trace.Link(part.span.get_span_context()) for part, _ in ours],
            start_time=_nanoseconds(started),
            attributes={
                "convserve.batch.rows": run.rows,
                "convserve.batch.padded_rows": run.padded_rows,
                "convserve.batch.release_reason": run.reason.value,
                "convserve.batch.wait_seconds": run.batch_wait_seconds,
            },
        )
        batch.end(_nanoseconds(started + run.run_seconds))
        for part, own in ours:
            queue = self._tracer.start_span(
                "queue",
                context=trace.set_span_in_context(part.span),
                links=[trace.Link(batch.get_span_context())],
                start_time=_nanoseconds(started - own.queue_seconds),
                attributes={"convserve.batch.request_rows": own.item_rows},
            )
            queue.end(_nanoseconds(started))


class Tracing:
    """Begins and ends server spans. Thread-safe."""

    def __init__(self, processor: SpanProcessor) -> None:
        """Hand finished spans to `processor`.

        What is sampled, and where to, is set by OpenTelemetry's own variables: OTEL_TRACES_SAMPLER,
        OTEL_EXPORTER_OTLP_ENDPOINT, OTEL_SERVICE_NAME and so on.
        """
        own = {SERVICE_VERSION: convserve.__version__, SERVICE_INSTANCE_ID: f"{socket.gethostname()}-{os.getpid()}"}
        if "OTEL_SERVICE_NAME" not in os.environ:
            own[SERVICE_NAME] = "convserve"
        self._provider = TracerProvider(resource=Resource.create(own), shutdown_on_exit=False)
        self._provider.add_span_processor(processor)
        self._tracer = self._provider.get_tracer("convserve", convserve.__version__)

    def begin(
        self, api: str, method: str, request_id: str, metadata: Iterable[tuple[str, str | bytes]]
    ) -> RequestTrace | None:
        """Begin the server span of a request; None when it is not sampled."""
        carrier = {key: value for key, value in metadata if isinstance(value, str) and key not in _NOT_OURS}
        span = self._tracer.start_span(
            f"{api}/{method}",
            context=propagate.extract(carrier, context=Context()),
            kind=trace.SpanKind.SERVER,
            attributes={
                "rpc.system": "grpc",
                "rpc.service": api,
                "rpc.method": method,
                "convserve.request_id": request_id,
            },
        )
        return RequestTrace(self._tracer, span) if span.is_recording() else None

    def end(self, request: RequestTrace, model: str, version: int, rows: int, code: grpc.StatusCode) -> None:
        """End the server span of a request."""
        span = request.span
        span.set_attribute("rpc.grpc.status_code", code.value[0])
        for name, value in (("model", model), ("version", version), ("rows", rows)):
            if value:
                span.set_attribute(f"convserve.{name}", value)
        if code in _SERVERS_FAULT:
            span.set_status(trace.StatusCode.ERROR, code.name)
        span.end()

    def close(self) -> None:
        """Send what is left, unless the collector is too slow to take it."""
        closing = threading.Thread(target=self._provider.shutdown, name="last-spans", daemon=True)
        closing.start()
        closing.join(_LAST_SPANS_SECONDS)


def open_tracing(exporter: Literal["otlp", "console"]) -> Tracing:
    """Tracing that sends spans to a collector, or writes them to stderr, one JSON line each.

    Raises:
        ConfigError: one of OpenTelemetry's own variables makes no sense to it.
    """
    try:
        if exporter == "otlp":
            return Tracing(BatchSpanProcessor(OTLPSpanExporter()))
        return Tracing(SimpleSpanProcessor(ConsoleSpanExporter(out=sys.stderr, formatter=_line)))
    except ValueError as error:
        raise ConfigError(f"traces: a variable OTEL_... holds what OpenTelemetry cannot read: {error}") from error


def _line(span: ReadableSpan) -> str:
    return json.dumps({"event": "span", "span": json.loads(span.to_json())}) + "\n"


_EPOCH = time.time_ns() - round(monotonic() * 1e9)
"""Nanoseconds since 1970 when the server's clock read 0."""


def _nanoseconds(reading: float) -> int:
    """A reading of the server's clock in nanoseconds since 1970."""
    return _EPOCH + round(reading * 1e9)
