"""How many replicas a rate needs: by the queueing model, checked by the simulation."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from convserve.errors import ConvserveError
from convserve.loadtest import arrivals, queueing, simulation
from convserve.loadtest.service_times import ServiceTimes
from convserve.loadtest.slo import Slo, name_of

_SHARES = (0.5, 0.9, 0.99, 0.999)
_SIMULATED_REQUESTS = 50_000
_PRECISION = 0.002
_STEP_BACK = 0.98


@dataclass(frozen=True)
class Prediction:
    """Latency of one replica at a rate, in seconds, by percentile."""

    rate: float
    model: dict[str, float]
    simulated: dict[str, float]


@dataclass(frozen=True)
class Plan:
    """What is needed, and what it will do."""

    rate: float
    """Requests per second in all."""
    slos: tuple[Slo, ...]
    times: ServiceTimes
    """Of one replica."""
    replicas: int
    highest_rate: float
    """Requests per second that one replica can take within the SLO."""
    prediction: Prediction
    """Of each replica at its share of the rate."""

    @property
    def load(self) -> float:
        """Share of each replica's capacity that is used."""
        return self.rate / self.replicas / self.times.capacity

    def to_json(self) -> dict[str, Any]:
        """For scripts; `service_times` is what `--from` reads."""
        return {
            "rate": self.rate,
            "slo": [str(one) for one in self.slos],
            "replicas": self.replicas,
            "highest_rate_of_a_replica": self.highest_rate,
            "load": self.load,
            "predicted": {
                "requests_per_second": self.prediction.rate,
                "model_seconds": self.prediction.model,
                "simulated_seconds": self.prediction.simulated,
            },
            "model": "M/D^[1,B]/1 with dynamic batching and setup, cost of a batch fixed + (each + handling) * n",
            "assumptions": list(queueing.ASSUMPTIONS),
            "service_times": self.times.to_json(),
        }


def predict(times: ServiceTimes, rate: float, shares: Sequence[float] = _SHARES, *, seed: int = 1) -> Prediction:
    """Latency at a rate, by theory and by simulation."""
    names = [name_of(share) for share in shares]
    model = queueing.percentiles(times, rate, shares)
    profile = arrivals.constant(rate, _SIMULATED_REQUESTS / rate)
    simulated = simulation.simulate(arrivals.poisson(profile, seed), times.at(rate), seed=seed)
    return Prediction(
        rate,
        dict(zip(names, model, strict=True)),
        {name: simulated.percentile(share) for name, share in zip(names, shares, strict=True)},
    )


def make(times: ServiceTimes, rate: float, slos: tuple[Slo, ...]) -> Plan:
    """Find the fewest replicas.

    The model says how much one replica can take; where the simulation disagrees and misses the SLO, the rate of a
    replica is lowered until it does not.

    Raises:
        ConvserveError: not even an idle replica keeps the SLO.
    """

    def kept(predicted: Callable[[float], float]) -> bool:
        return all(predicted(one.percentile) <= one.seconds for one in slos)

    def model_keeps(one_rate: float) -> bool:
        found = queueing.percentiles(times, one_rate, [one.percentile for one in slos])
        return all(value <= one.seconds for value, one in zip(found, slos, strict=True))

    low, high = times.capacity * 1e-3, times.capacity
    if not model_keeps(low):
        idle = queueing.percentiles(times, low, [one.percentile for one in slos])
        shown = ", ".join(
            f"{name_of(one.percentile)} {value * 1e3:.2f} ms" for one, value in zip(slos, idle, strict=True)
        )
        raise ConvserveError(f"no number of replicas keeps {', '.join(map(str, slos))}: an idle one has {shown}")
    while high / low > 1 + _PRECISION:
        middle = (low * high) ** 0.5
        low, high = (middle, high) if model_keeps(middle) else (low, middle)
    highest = low
    while not kept(_simulated(times, highest)):
        highest *= _STEP_BACK
        if highest < times.capacity * 1e-3:
            raise ConvserveError(f"no number of replicas keeps {', '.join(map(str, slos))} in the simulation")
    replicas = max(math.ceil(rate / highest - 1e-9), 1)
    return Plan(rate, slos, times, replicas, highest, predict(times, rate / replicas))


def _simulated(times: ServiceTimes, rate: float) -> Callable[[float], float]:
    profile = arrivals.constant(rate, _SIMULATED_REQUESTS / rate)
    return simulation.simulate(arrivals.poisson(profile, 1), times.at(rate), seed=1).percentile
