"""When a failed RPC is worth another try, and how long to wait before it. Pure but for a lock and dice.

Classifying has no side effects, so any RPC may be repeated. What limits repetition is the caller's deadline, a number
of attempts, and a budget that all calls of a client share: while everything works a few failures are repeated at once;
when everything fails, the budget runs dry and the client stops adding load.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from dataclasses import dataclass

from convserve.errors import CancelledError, ConfigError, ConvserveError, OverloadedError, UnavailableError

_RETRIED = (UnavailableError, OverloadedError, CancelledError)
"""A server that shuts down ends calls with CANCELLED; a caller's own cancellation never comes here."""


@dataclass(frozen=True)
class Retry:
    """How often, how soon and how much a client repeats failed RPCs."""

    attempts: int = 5
    """Most times that one RPC is sent, the first included. 1 or more."""
    initial_seconds: float = 0.05
    """Longest wait before the first repetition, in seconds; it doubles with each one. Half to all of it is waited,
    by chance, so that callers who failed together do not come back together."""
    max_seconds: float = 1.0
    """Longest wait before any repetition, in seconds, unless the server asks for a longer one."""
    budget: int = 256
    """Repetitions that all calls of the client may take in a burst. As many as the calls that one worker of a server
    with default settings can take with it when it dies."""
    budget_ratio: float = 0.1
    """Repetitions that each successful RPC adds to the budget again, up to `budget`. 0.1: one in ten at most."""

    def __post_init__(self) -> None:
        """Check the values."""
        for name, value, least in (
            ("attempts", self.attempts, 1),
            ("initial_seconds", self.initial_seconds, 0),
            ("max_seconds", self.max_seconds, 0),
            ("budget", self.budget, 0),
            ("budget_ratio", self.budget_ratio, 0),
        ):
            if not value >= least:
                raise ConfigError(f"retry.{name} is {value}; it must be {least} or more")


class Budget:
    """A bucket of tokens: each repetition takes one, each success puts a part of one back. Thread-safe."""

    def __init__(self, size: int, ratio: float) -> None:
        """Start full."""
        self._size = self._tokens = float(size)
        self._ratio = ratio
        self._lock = threading.Lock()

    def deposit(self) -> None:
        """Count a success."""
        if self._tokens < self._size:
            with self._lock:
                self._tokens = min(self._tokens + self._ratio, self._size)

    def withdraw(self) -> bool:
        """Take a repetition out; False when there is none."""
        with self._lock:
            if self._tokens < 1:
                return False
            self._tokens -= 1
            return True


class Retries:
    """Decides about the repetitions of one client. Thread-safe."""

    def __init__(self, settings: Retry | None, chance: Callable[[], float] = random.random) -> None:
        """Follow `settings`; None: never repeat. `chance` gives numbers from 0 to 1."""
        self._settings = settings or Retry(attempts=1, budget=0)
        self._chance = chance
        self.budget = Budget(self._settings.budget, self._settings.budget_ratio)
        """What is left; successes are deposited here."""

    def delay(self, error: ConvserveError, attempt: int, seconds_left: float) -> float | None:
        """Seconds to wait before the RPC is sent again; None: give up. Takes from the budget.

        Args:
            error: how the last attempt ended.
            attempt: how many attempts there were, 1 or more.
            seconds_left: until the deadline. A wait that would end after it is not begun.
        """
        settings = self._settings
        if not isinstance(error, _RETRIED) or attempt >= settings.attempts:
            return None
        doublings = min(attempt - 1, 1000)  # more do not fit into a float
        longest = min(settings.initial_seconds * 2.0**doublings, settings.max_seconds)
        wait = longest * (0.5 + 0.5 * self._chance())
        if isinstance(error, OverloadedError) and error.retry_after_seconds > 0:
            # At least as long as the server asks, and not all at the same moment. Whoever is refused again after that
            # backs off too (https://github.com/googleapis/googleapis/blob/master/google/rpc/error_details.proto).
            asked = error.retry_after_seconds * (1 + 0.25 * self._chance())
            wait = asked if attempt == 1 else max(asked, wait)
        if wait >= seconds_left or not self.budget.withdraw():
            return None
        return wait
