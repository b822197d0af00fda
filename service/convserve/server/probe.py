"""Asks the server on this machine how it is: `python -m convserve.server.probe`, for a container's HEALTHCHECK.

Reads the address from the same variables and file as the server, so that an image needs no second setting. A port given
as a flag is not seen here: in a container give it as CONVSERVE_HTTP_PORT.
"""

from __future__ import annotations

import argparse
import http.client
import os
import sys
from collections.abc import Sequence

from convserve import config
from convserve.config import Settings
from convserve.errors import ConfigError

_ANY = {"0.0.0.0": "127.0.0.1", "[::]": "::1", "::": "::1", "": "127.0.0.1"}  # noqa: S104  # nothing is bound here
"""Where a server that listens everywhere is reached from here."""


def main(argv: Sequence[str] | None = None) -> int:
    """Ask, and print the answer. Returns 0 for yes, 1 for anything else."""
    parser = argparse.ArgumentParser(
        prog="python -m convserve.server.probe",
        description="Ask the server on this machine how it is. Exit status 0: yes.",
    )
    parser.add_argument(
        "question",
        nargs="?",
        choices=("readyz", "livez"),
        default="readyz",
        help="readyz: should requests come? livez: does the process answer? (default: readyz)",
    )
    parser.add_argument("--timeout", type=float, default=3.0, metavar="SECONDS", help="longest wait (default: 3)")
    args = parser.parse_args(argv)
    try:
        settings = config.load({}, os.environ)
        status, text = ask(settings, args.question, args.timeout)
    except ConfigError as error:
        print(error, file=sys.stderr)  # noqa: T201  # what Docker shows of a probe
        return 1
    except OSError as error:
        print(f"no answer on port {settings.http_port}: {error}", file=sys.stderr)  # noqa: T201
        return 1
    print(text)  # noqa: T201
    return 0 if status == 200 else 1


def ask(settings: Settings, question: str, timeout: float) -> tuple[int, str]:
    """GET a path of the server that has these settings. Returns status and text.

    Raises:
        OSError: there is no answer within `timeout` seconds.
    """
    host = _ANY.get(settings.host, settings.host).strip("[]")
    connection = http.client.HTTPConnection(host, settings.http_port, timeout=timeout)
    try:
        connection.request("GET", f"/{question}")
        answer = connection.getresponse()
        return answer.status, answer.read(1000).decode(errors="replace").strip()
    except http.client.HTTPException as error:
        raise ConnectionError(f"not HTTP: {error!r}") from error
    finally:
        connection.close()


if __name__ == "__main__":
    sys.exit(main())
