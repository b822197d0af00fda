"""What the commands that talk to a server share."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterable, Sequence

TARGET_VARIABLE = "CONVSERVE_TARGET"
DEFAULT_TARGET = "127.0.0.1:8001"


def add_connection(parser: argparse.ArgumentParser) -> None:
    """Add the flags that say which server, and how long to wait for it."""
    parser.add_argument(
        "--target",
        metavar="HOST:PORT",
        default=os.environ.get(TARGET_VARIABLE, DEFAULT_TARGET),
        help=f"gRPC address of the server (default: {TARGET_VARIABLE} if set, else {DEFAULT_TARGET})",
    )
    parser.add_argument(
        "--timeout",
        metavar="SECONDS",
        type=positive_seconds,
        default=10.0,
        help="seconds that a request may take (default: 10)",
    )


def positive_seconds(text: str) -> float:
    """Read a number of seconds above 0, for argparse."""
    seconds = float(text)
    if not 0 < seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} came; it must be above 0 seconds")
    return seconds


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Lay out rows of text in columns."""
    lines = [header, *rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )
