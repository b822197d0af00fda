"""Time that passes only when a test says so."""

from __future__ import annotations


class Clock:
    """A clock as the code takes it: a function that gives seconds. It stands still until `now` is changed."""

    def __init__(self, now: float = 0.0) -> None:
        """Stand at `now`."""
        self.now = now

    def __call__(self) -> float:
        """The time."""
        return self.now
