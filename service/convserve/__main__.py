"""The command `convserve`."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from io import TextIOWrapper

from convserve import __version__
from convserve.cli import classify, doctor, loadtest, models, plan, serve
from convserve.cli.common import INTERRUPTED
from convserve.errors import ConvserveError

OK, FAILED = 0, 1
"""Exit statuses; argparse ends with 2 when the command line is wrong."""

_COMMANDS = {
    "serve": serve,
    "classify": classify,
    "models": models,
    "loadtest": loadtest,
    "plan": plan,
    "doctor": doctor,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (default: the process's own). Returns the exit status.

    0: done. 1: something failed, stderr says what. 2: wrong usage. 130: interrupted by Ctrl-C.
    """
    _open_missing_streams()
    if isinstance(sys.stdout, TextIOWrapper) and sys.stdout.errors == "strict":
        # As stderr: a name that the terminal cannot show is no failure.
        sys.stdout.reconfigure(errors="backslashreplace")
    parser = argparse.ArgumentParser(
        prog="convserve",
        description="Serve image classifiers over gRPC, and classify images with them.",
        epilog="Exit status: 0 done, 1 something failed, 2 wrong usage, 130 interrupted.",
    )
    parser.add_argument("--version", action="version", version=f"convserve {__version__}")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for command in _COMMANDS.values():
        command.add_parser(subparsers)
    args, unknown = parser.parse_known_args(argv)
    if unknown and "settings_unknown" not in args:
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    try:
        status: int = _COMMANDS[args.command].run(args)
        sys.stdout.flush()
    except ConvserveError as error:
        print(f"convserve {args.command}: {error}", file=sys.stderr)  # noqa: T201
        return FAILED
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:  # whoever read our output has gone; say nothing, not even at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    return status


def _open_missing_streams() -> None:
    """Have stdin, stdout and stderr lead nowhere where they were closed (`>&-`).

    Or the next files and connections would get their numbers, and what native code writes to stderr.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):  # each gets the lowest number that is free
        if getattr(sys, name) is None:
            stream = open(os.devnull, mode)  # noqa: SIM115, PTH123  # as long as the process
            os.set_inheritable(stream.fileno(), True)
            setattr(sys, name, stream)


if __name__ == "__main__":
    sys.exit(main())
