"""When to start the next worker in the place of one that ended, and when to give up. Pure: the time is an argument."""

from __future__ import annotations

from collections import Counter

_CRASHES, _WINDOW_SECONDS = 5, 60.0
_SHORTEST_SECONDS, _LONGEST_SECONDS = 0.1, 5.0


class Restarts:
    """What is known of the ends of all workers.

    A crash loop is 5 crashes within a minute, or twice as many as there are workers where that is more, since all of
    them may be hit at once; or 5 in a row of one place's workers before they were ready, however long each took for
    that. A worker that could say why it cannot start has not crashed: it is tried again and again, since what hinders
    it, such as a repository that is away, does not hinder the workers that serve.
    """

    def __init__(self, workers: int) -> None:
        """None of so many workers has ended yet."""
        self._most_crashes = max(_CRASHES, 2 * workers)
        self._crashes: list[float] = []
        self._crashed_starts: Counter[int] = Counter()
        self._failed_starts: Counter[int] = Counter()

    def next_delay(self, place: int, now: float, *, was_ready: bool, said_why: bool = False) -> float | None:
        """Seconds until the next worker should start in this place, where one has just ended. None: give up.

        Args:
            place: index of the worker.
            now: seconds on any clock.
            was_ready: it had served.
            said_why: it had not, and told the reason.
        """
        self._crashes = [crash for crash in self._crashes if now - crash < _WINDOW_SECONDS]
        if was_ready:
            self._crashed_starts[place] = self._failed_starts[place] = 0
        if said_why:
            self._crashed_starts[place] = 0
            self._failed_starts[place] += 1
            return _backoff(self._failed_starts[place])
        self._crashes.append(now)
        self._crashed_starts[place] += not was_ready
        if len(self._crashes) >= self._most_crashes or self._crashed_starts[place] >= _CRASHES:
            return None
        return _backoff(max(len(self._crashes), self._crashed_starts[place]))


def _backoff(attempt: int) -> float:
    return float(min(_SHORTEST_SECONDS * 2 ** (attempt - 1), _LONGEST_SECONDS))
