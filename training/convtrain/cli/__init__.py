"""The command line: `convtrain presets | describe | options | doctor | train | … | run | inspect`.

Results go to stdout, progress and errors to stderr. Exit codes: 0 done, 1 an error with a message, 2 wrong arguments,
130 interrupted.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from convserve.errors import ConvserveError
from convtrain.cli.parser import make_parser
from convtrain.errors import TrainingInterruptedError

__all__ = ["run"]


def run(arguments: Sequence[str]) -> int:
    """Run one command. Returns the exit code."""
    options = make_parser().parse_args(arguments)
    try:
        code: int | None = options.command(options, arguments)
    except TrainingInterruptedError as error:
        print(f"convtrain: {error}", file=sys.stderr)
        return 130
    except KeyboardInterrupt:
        print("convtrain: interrupted", file=sys.stderr)
        return 130
    except (ConvserveError, OSError) as error:
        print(f"convtrain: error: {error}", file=sys.stderr)
        return 1
    except MemoryError as error:
        print(f"convtrain: error: not enough memory ({str(error) or 'for Python'})", file=sys.stderr)
        return 1
    return code or 0
