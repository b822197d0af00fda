"""Whether this is still the process that made the connections.

gRPC's threads do not live on in a forked process, and the sockets would be shared with the parent: calls would hang or
mix. So a client refuses to work in a process that was forked after its first call.
"""

from __future__ import annotations

import os

from convserve.errors import ClosedError

_generation = 0


def generation() -> int:
    """A number that changes in every forked process."""
    return _generation


def check(birth: int) -> None:
    """Refuse to go on in a process that was forked after the generation `birth`.

    Raises:
        ClosedError: this is a forked process.
    """
    if birth != _generation:
        raise ClosedError(
            "this client was used before the process was forked, and its connections belong to the parent; make a"
            " client after the fork, or leave the first call to the child"
        )


def _forked() -> None:
    global _generation
    _generation += 1


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
