"""`convserve serve`: start the server."""

from __future__ import annotations

import argparse
from typing import Any


def add_parser(subparsers: argparse._SubParsersAction[Any]) -> None:
    """Add the command."""
    parser = subparsers.add_parser(
        "serve",
        help="start the server",
        description="Serve a model repository over gRPC. Every model is proved before it answers. Once all are ready,"
        " stdout gets one JSON line with the ports; logs go to stderr. SIGTERM drains, a second signal ends at once.",
    )
    try:
        from convserve import config
    except ModuleNotFoundError as error:
        missing = error.name
        parser.epilog = f"Not installed: {missing}. Install the server: pip install 'convserve[server]'"
        return
    config.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Serve until a signal comes. Returns the exit status."""
    from convserve.server.__main__ import serve

    return serve(vars(args))
