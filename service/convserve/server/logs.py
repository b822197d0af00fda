"""Logging: one line for each event, to stderr, as text for people or JSON for machines."""

from __future__ import annotations

import logging
import os
import sys

import structlog
from structlog.typing import Processor

_CALLERS_FAULT = ("Invalid encoding on", "Exception deserializing")
"""How gRPC's lines about what came begin, each with a traceback: metadata that is not UTF-8, which it quotes, and
messages to health and reflection that are none."""


def configure(level: str, form: str, **always: object) -> None:
    """Send all logs, those of libraries too, to stderr.

    Args:
        level: `debug`, `info`, `warning` or `error`.
        form: `json`, `text`, or `auto`: text on a terminal, JSON elsewhere.
        always: what every line says, such as the number of a worker.
    """
    as_text = form == "text" or (form == "auto" and sys.stderr.isatty())
    shared: list[Processor] = [
        lambda logger, name, event: {**event, **always},  # noqa: ARG005  # the signature of a processor
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    if not as_text:
        shared.append(structlog.processors.format_exc_info)
    renderer: Processor = (
        # Plain: the one that rich would draw shows local variables, and so the images of whoever called.
        structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback)
        if as_text
        else structlog.processors.JSONRenderer(default=str)
    )
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    # gRPC's own lines quote what callers send: tokens, and bytes that would pass for lines of this log. Read once, by
    # the import.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    for name in ("grpc._cython.cygrpc", "grpc._common"):
        logging.getLogger(name).addFilter(lambda record: not str(record.msg).startswith(_CALLERS_FAULT))
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())
