"""Files that may change while the server runs: secrets and certificates that are rotated."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from pathlib import Path

from convserve.clock import Clock, monotonic

LOOK_SECONDS = 1.0
"""How often files are looked at, at most; nobody looks unless somebody asks."""


class Watched:
    """Tells when one of several files has changed. Thread-safe."""

    def __init__(self, paths: Iterable[Path], clock: Clock = monotonic) -> None:
        """Watch `paths`; what they hold now counts as seen from the first `changed` on."""
        self._paths = tuple(paths)
        self._clock = clock
        self._lock = threading.Lock()
        self._look_at = 0.0
        self._seen: tuple[tuple[int, ...] | None, ...] | None = None

    def changed(self) -> bool:
        """Whether a file is another one than at the last look. One caller is told of each change.

        Call it before reading the files: what changes in between is told at the next look.
        """
        if self._clock() < self._look_at:
            return False
        with self._lock:
            now = self._clock()
            if now < self._look_at:
                return False
            self._look_at = now + LOOK_SECONDS
            state = tuple(map(_state, self._paths))
            seen, self._seen = self._seen, state
            return state != seen


def _state(path: Path) -> tuple[int, ...] | None:
    """Changes when the content does, also when a symbolic link on the way is moved, as Kubernetes does it."""
    try:
        info = path.stat()
    except OSError:
        return None
    # The last one also tells of permissions that were mended after a read had failed.
    return (info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns)
