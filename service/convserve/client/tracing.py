"""W3C trace context for servers, when the application uses OpenTelemetry."""

from __future__ import annotations

import importlib
import sys
from typing import TypeAlias

Trace: TypeAlias = tuple[tuple[str, str], ...]
"""Metadata that carries the trace context; empty when there is none."""


def current() -> Trace:
    """The trace context of the calling thread or task.

    OpenTelemetry is never loaded for this: an application that traces has loaded it. Which fields travel is up to the
    propagator it has set, by default `traceparent`, `tracestate` and `baggage` (https://www.w3.org/TR/trace-context/).
    """
    if "opentelemetry" not in sys.modules:
        return ()
    try:
        propagate = importlib.import_module("opentelemetry.propagate")
    except ImportError:  # a part of OpenTelemetry without its API
        return ()
    carrier: dict[str, str] = {}
    propagate.inject(carrier)
    return tuple((key.lower(), value) for key, value in carrier.items())
