"""Entry of the command `convtrain`."""

from __future__ import annotations

import signal
import sys
from io import TextIOWrapper


def main() -> None:
    """Run the command line and leave with its exit code."""
    try:
        from convtrain.cli import run

        # What stops a container ends a training as Ctrl-C does: with a word about what is saved, and nothing half done.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        if isinstance(sys.stdout, TextIOWrapper) and sys.stdout.errors == "strict":
            # As stderr: a label or directory that the terminal cannot show is no failure, least of all after training.
            sys.stdout.reconfigure(errors="backslashreplace")
        sys.exit(run(sys.argv[1:]))
    except ModuleNotFoundError as error:
        # The base install of convserve is the client and brings none of what training needs.
        if error.name is None or error.name.partition(".")[0] in ("convserve", "convtrain"):
            raise
        sys.exit(f"convtrain: {error.name} is not installed; install the extra: pip install 'convserve[train]'")


if __name__ == "__main__":
    main()
