"""`convserve serve`: start the server."""

from __future__ import annotations

import argparse
from typing import Any

from convserve.cli import common
from convserve.errors import RuntimeNotInstalledError


def add_parser(subparsers: argparse._SubParsersAction[Any]) -> None:
    """Add the command."""
    parser = subparsers.add_parser(
        "serve",
        help="start the server",
        description="Serve a model repository over gRPC. Every model is proved before it answers. Once all are ready,"
        " stdout gets one JSON line with the ports; logs go to stderr. SIGTERM drains, a second one ends at once.",
    )
    common.add_settings(parser)


def run(args: argparse.Namespace) -> int:
    """Serve until a signal comes. Returns the exit status.

    Raises:
        RuntimeNotInstalledError: the server's extra is not installed.
    """
    try:
        from convserve.server.__main__ import serve
    except ModuleNotFoundError as error:
        raise RuntimeNotInstalledError(
            f"{error.name} is not installed; install the server with: pip install 'convserve[server]'"
        ) from error
    return serve(vars(args))
