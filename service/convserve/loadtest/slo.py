"""What was promised about latency: `p99=20ms`."""

from __future__ import annotations

import re
from dataclasses import dataclass

from convserve.errors import ConfigError
from convserve.loadtest import confidence
from convserve.loadtest.histogram import Histogram

_FORM = re.compile(r"^p(\d{1,2}(?:\.\d+)?)\s*=\s*(\d+(?:\.\d+)?)\s*(us|ms|s)$")
_UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0}


@dataclass(frozen=True)
class Slo:
    """A percentile and its bound."""

    percentile: float
    """Between 0 and 1, such as 0.99."""
    seconds: float
    """The longest that latency may be."""

    def __str__(self) -> str:
        """As it is written on a command line."""
        return f"{name_of(self.percentile)}={self.seconds * 1000:g}ms"


@dataclass(frozen=True)
class Verdict:
    """Whether a run kept a promise."""

    slo: Slo
    met: bool
    """Whether so few requests were slow or failed that the promise was kept."""
    shown: bool
    """Whether that is also certain at 99 %, by LoadGen's early-stopping rule."""
    requests: int
    slow: int
    """Requests that were slower than the bound, or failed."""
    needed: int
    """Requests that would make it certain, with as many slow ones."""


def parse(text: str) -> tuple[Slo, ...]:
    """Read one or more promises, separated by commas.

    Raises:
        ConfigError: says what came and what is wanted.
    """
    found = []
    for part in text.split(","):
        match = _FORM.match(part.strip())
        if match is None or not 0 < float(match[1]) < 100 or float(match[2]) <= 0:
            raise ConfigError(f"slo: {part.strip()!r} came; wanted is a percentile and a time, such as p99=20ms")
        found.append(Slo(float(match[1]) / 100, float(match[2]) * _UNITS[match[3]]))
    return tuple(found)


def name_of(percentile: float) -> str:
    """`p99` for 0.99, `p99.9` for 0.999."""
    return f"p{percentile * 100:.10g}"


def judge(slo: Slo, latencies: Histogram, failed: int) -> Verdict:
    """Compare a run with a promise. Failed requests count as slower than any bound: an error is no fast answer."""
    requests = latencies.count + failed
    slow = latencies.above(slo.seconds) + failed
    most = confidence.most_slow(requests, slo.percentile) if requests else None
    return Verdict(
        slo,
        met=requests > 0 and slow <= requests * (1 - slo.percentile) + 1e-9,
        shown=most is not None and slow <= most,
        requests=requests,
        slow=slow,
        needed=confidence.needed_requests(slow, slo.percentile),
    )
