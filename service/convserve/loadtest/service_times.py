"""How long a server takes for requests and batches: what a capacity plan starts from."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from convserve.errors import ConfigError


@dataclass(frozen=True)
class ServiceTimes:
    """A batch of n requests takes `fixed + each * n` seconds; each request costs `handling` on its way in and out.

    That is when the server is always busy. One that rests in between wakes up slowly (`setup`) and runs models slower
    for a while (`stretch`): threads and the processor were asleep, its clock is low, its caches are cold.
    """

    fixed: float
    """Seconds that a batch takes however many requests are in it: of the model's run, and of RPC work for the batch."""
    each: float
    """Seconds that every request adds to the run."""
    handling: float
    """Seconds of RPC work for every request, done one by one, half before its batch and half after."""
    most: int
    """Requests that fit into a batch."""
    besides: tuple[float, ...] = (0.0,)
    """Latency of a lone request beyond its handling and its run, in seconds, as ascending quantiles: network, wake-ups.
    It is added to the time in queue and batch, and takes nothing of the server's capacity."""
    setup: tuple[tuple[float, float], ...] = ()
    """What a request costs beyond the model's run when it finds the server idle, by how long it was so: pairs of
    seconds, ascending. Empty: nothing."""
    stretch: tuple[tuple[float, float], ...] = ()
    """What runs take at a load, as a multiple of what they take at capacity: pairs of load (0 to 1) and factor,
    ascending. Empty: the same at every load."""

    def __post_init__(self) -> None:
        """Check.

        Raises:
            ConfigError: times that cannot be.
        """
        parts = (self.fixed, self.each, self.handling, *self.besides, *sum(self.setup, ()), *sum(self.stretch, ()))
        if not all(0 <= part < math.inf for part in parts) or self.fixed + self.each <= 0 or self.most < 1:
            raise ConfigError(f"batch times must be above 0 and batches hold a request; got {self}")

    def run(self, requests: float) -> float:
        """Seconds that the model's run of so many requests takes, with the RPC work that each batch has."""
        return self.fixed + self.each * requests

    def batch(self, requests: float) -> float:
        """Seconds that so many requests cost the server in all, when they share a run."""
        return self.run(requests) + self.handling * requests

    def at(self, rate: float) -> ServiceTimes:
        """What it takes while so many requests come per second."""
        if not self.stretch:
            return self
        loads, factors = zip(*self.stretch, (1.0, 1.0), strict=True)
        factor = float(np.interp(rate / self.capacity, loads, factors))
        return replace(self, fixed=self.fixed * factor, each=self.each * factor, stretch=())

    def setup_after(self, idle: float) -> float:
        """Seconds that a request costs more when the server has been idle for `idle` seconds."""
        if not self.setup:
            return 0.0
        moments, extra = zip((0.0, 0.0), *self.setup, strict=True)
        return float(np.interp(idle, moments, extra))

    @property
    def capacity(self) -> float:
        """Requests per second when all batches are full."""
        return self.most / self.batch(self.most)

    def to_json(self) -> dict[str, Any]:
        """For scripts, and for `from_json`."""
        return {
            "fixed_seconds": self.fixed,
            "seconds_per_request": self.each,
            "handling_seconds_per_request": self.handling,
            "requests_per_batch": self.most,
            "capacity_requests_per_second": self.capacity,
            "besides_seconds": list(self.besides),
            "setup_seconds": [list(pair) for pair in self.setup],
            "stretch": [list(pair) for pair in self.stretch],
        }


def from_json(found: Mapping[str, Any]) -> ServiceTimes:
    """What `to_json` wrote.

    Raises:
        ConfigError: it did not.
    """
    try:
        return ServiceTimes(
            float(found["fixed_seconds"]),
            float(found["seconds_per_request"]),
            float(found["handling_seconds_per_request"]),
            int(found["requests_per_batch"]),
            tuple(sorted(map(float, found["besides_seconds"]))) or (0.0,),
            _pairs(found.get("setup_seconds", ())),
            _pairs(found.get("stretch", ())),
        )
    except (KeyError, TypeError, ValueError, OverflowError) as error:  # the last from a batch size of infinity
        raise ConfigError(
            f"from: there are no service times as `convserve plan --json` writes them ({error})"
        ) from error


def _pairs(found: Iterable[Sequence[Any]]) -> tuple[tuple[float, float], ...]:
    return tuple(sorted((float(at), float(value)) for at, value in found))


def parse_table(text: str, most: int) -> ServiceTimes:
    """Read a table such as `1:0.5ms,64:4ms`: rows of a batch and how long it takes.

    Raises:
        ConfigError: says what came and what is wanted.
    """
    units = {"us": 1e-6, "ms": 1e-3, "s": 1.0}
    points: dict[float, float] = {}
    try:
        for part in text.split(","):
            size, _, time = part.partition(":")
            unit = next(name for name in units if time.endswith(name))
            points[int(size)] = float(time.removesuffix(unit)) * units[unit]
            if not 0 < points[int(size)] < math.inf or int(size) < 1:
                raise ValueError
    except (ValueError, StopIteration) as error:
        raise ConfigError(f"batch-times: {text!r} came; wanted are sizes and times such as 1:0.5ms,64:4ms") from error
    return ServiceTimes(*fit(points), handling=0.0, most=most or round(max(points)))


def fit(points: Mapping[float, float]) -> tuple[float, float]:
    """Lay a line through measured batch times, by least squares of the relative error; neither part may be negative.

    Args:
        points: seconds by requests in a batch.

    Returns:
        The line's `fixed` and `each`.
    """
    sizes = np.array(sorted(points), np.float64)
    seconds = np.array([points[size] for size in sizes.tolist()])
    if len(sizes) == 1:
        return 0.0, float(seconds[0] / sizes[0])
    system = np.stack([1 / seconds, sizes / seconds], axis=1)
    fixed, each = np.linalg.lstsq(system, np.ones(len(sizes)), rcond=None)[0].tolist()
    if fixed < 0:
        fixed, each = 0.0, float(np.mean(seconds / sizes))
    elif each < 0:
        fixed, each = float(np.mean(seconds)), 0.0
    return fixed, each
