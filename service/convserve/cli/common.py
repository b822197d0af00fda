"""What the commands that talk to a server share."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from convserve.errors import ConfigError

if TYPE_CHECKING:
    from convserve.client import Client
    from convserve.loadtest.link import Target

INTERRUPTED = 130
"""Exit status after Ctrl-C."""

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


def add_credentials(parser: argparse.ArgumentParser) -> None:
    """Add the flags that say how to talk to a server that asks who one is."""
    group = parser.add_argument_group("encryption and credentials")
    group.add_argument("--tls", action="store_true", help="talk TLS, and check with this machine's certificates")
    group.add_argument("--tls-ca", metavar="FILE", help="talk TLS, and check with these certificates (PEM)")
    group.add_argument("--tls-cert", metavar="FILE", help="certificate to show to a server that asks for one (PEM)")
    group.add_argument("--tls-key", metavar="FILE", help="private key of --tls-cert (PEM)")
    group.add_argument("--token-file", metavar="FILE", type=Path, help="file with a bearer token to send")


def add_settings(parser: argparse.ArgumentParser) -> None:
    """Add `--config` and a flag for every setting of the server.

    In an installation without the server's extra they are not known: help says so, and whatever is given is left to the
    command's `run`, which says what to install.
    """
    try:
        from convserve import config
    except ModuleNotFoundError:
        parser.epilog = "The settings are listed once the server is installed: pip install 'convserve[server]'"
        parser.set_defaults(settings_unknown=True)
        return
    config.add_arguments(parser)


def connect(args: argparse.Namespace) -> Client:
    """A client by the flags of `add_connection` and `add_credentials`.

    Raises:
        ConfigError: a file cannot be read, or a token would travel unencrypted to another machine.
    """
    from convserve.client import Client, Tls

    tls: bool | Tls = args.tls
    if args.tls_ca or args.tls_cert or args.tls_key:
        tls = Tls(ca=args.tls_ca, cert=args.tls_cert, key=args.tls_key)
    token = None
    if args.token_file is not None:
        try:
            token = args.token_file.read_text(encoding="utf-8").strip()
        except OSError as error:
            raise ConfigError(f"--token-file: {args.token_file} cannot be read ({error.strerror})") from error
        except UnicodeDecodeError as error:
            raise ConfigError(f"--token-file: {args.token_file} holds no token: it is no text") from error
    return Client(args.target, timeout=args.timeout, tls=tls, token=token)


def loaded(args: argparse.Namespace) -> Target:
    """The server that the load tester is to load, by the same flags.

    Raises:
        ConfigError: the address is none, or a file cannot be read.
    """
    from convserve.loadtest.link import parse_target

    return parse_target(
        args.target,
        args.timeout,
        tls=args.tls,
        ca_file=args.tls_ca or "",
        cert_file=args.tls_cert or "",
        key_file=args.tls_key or "",
        token_file=str(args.token_file or ""),
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
