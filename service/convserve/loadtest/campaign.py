"""A load test from its options to its runs."""

from __future__ import annotations

import math
import os
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

from convserve.errors import ConfigError, ConvserveError
from convserve.loadtest import arrivals, dialects, samples, workload
from convserve.loadtest.asking import Asker
from convserve.loadtest.dialects import Wanted
from convserve.loadtest.fleet import Fleet
from convserve.loadtest.link import Target
from convserve.loadtest.loop import MOST_CONNECTIONS
from convserve.loadtest.process import Load, Setup
from convserve.loadtest.run import Goals, Run
from convserve.loadtest.samples import ModelFacts
from convserve.loadtest.scenario import (
    MULTI_STREAM_SAMPLES,
    OFFLINE_SAMPLES,
    RAMP_FIRST,
    SPIKE_PEAK,
    Scenario,
)
from convserve.loadtest.search import Found, search
from convserve.loadtest.tally import Tally
from convserve.loadtest.workload import Expected, Mix

CHECKS = ("golden", "labels", "none")
_DOUBTFUL_TRIES = 3
"""Runs at a rate that missed the SLO, while all of them were invalid, before the rate counts as missed."""
_LEAST_SLOW = 3
"""Requests beyond the percentile that a run should have at least."""
_OFFLINE_IN_FLIGHT_IMAGES = 512
"""Enough to fill several batches, and half of what the server's queue takes by default."""


@dataclass(frozen=True)
class Options:
    """What a load test is to do."""

    target: Target
    wanted: Wanted
    scenario: Scenario
    mix: Mix
    data: str = samples.SYNTHETIC
    form: str = "packed"
    sample_count: int = 256
    check: str = "golden"
    rate: float | None = None
    in_flight: int = 64
    warmup: float = 2.0
    seconds: float = 30.0
    connections: int = 4
    processes: int = 1
    seed: int = 1
    sweep: tuple[float, ...] = ()
    goals: Goals = field(default_factory=Goals)

    def __post_init__(self) -> None:
        """Check what goes together.

        Raises:
            ConfigError: names the option.
        """
        if self.check not in CHECKS:
            raise ConfigError(f"check: {self.check!r} came; wanted is one of {', '.join(CHECKS)}")
        if self.check == "labels" and not self.goals.min_accuracy:
            raise ConfigError("check: comparing with labels needs --min-accuracy; no model is always right")
        if self.scenario.open_loop and self.rate is None and not self.sweep and not self.goals.slos:
            raise ConfigError(f"rate: the scenario {self.scenario.name} needs --rate, --sweep or --slo")
        if (self.sweep or self.searches) and self.scenario.name not in ("server", "constant"):
            raise ConfigError(
                f"scenario: {self.scenario.name} came; rates are swept and searched with server or constant"
            )
        if self.connections < self.processes:
            raise ConfigError(f"connections: {self.connections} came for {self.processes} processes; each needs one")
        if self.connections > self.processes * MOST_CONNECTIONS:
            raise ConfigError(
                f"connections: {self.connections:,} came for {self.processes} process(es); each has at most"
                f" {MOST_CONNECTIONS:,}, so use more --processes"
            )

    @property
    def searches(self) -> bool:
        """Whether the highest rate is to be found."""
        return bool(self.goals.slos) and self.rate is None and not self.sweep and self.scenario.open_loop


def load_of(options: Options, rate: float | None) -> Load:
    """The load of one run; `rate` in requests per second for open loops."""
    warmup, seconds = options.warmup, options.seconds
    load = Load(warmup=warmup, seconds=seconds, connections=options.connections, seed=options.seed)
    name, whole = options.scenario.name, warmup + seconds
    if rate is not None and options.scenario.open_loop:
        profile = {
            "ramp": lambda: arrivals.ramp(rate * RAMP_FIRST, rate, warmup, seconds),
            "spike": lambda: arrivals.spike(rate, rate * SPIKE_PEAK, warmup, seconds),
        }.get(name, lambda: arrivals.constant(rate, whole))()
        return replace(load, profile=profile, poisson=name != "constant")
    if name == "offline":
        count = math.ceil(OFFLINE_SAMPLES / options.mix.mean)
        callers = max(round(_OFFLINE_IN_FLIGHT_IMAGES / options.mix.mean), options.processes)
        return replace(load, callers=callers, count=count, seconds=float("inf"))
    if name in ("single-stream", "multi-stream"):
        return replace(load, callers=1, connections=1)
    return replace(load, callers=options.in_flight)


def mix_of(scenario: Scenario, given: str | None) -> Mix:
    """Batch sizes: those given, or what the scenario is about.

    Raises:
        ConfigError: the text is no mix, or MLPerf's rules say another one.
    """
    fixed = {"single-stream": "1", "multi-stream": str(MULTI_STREAM_SAMPLES)}.get(scenario.name)
    if fixed is not None and given is not None and given != fixed:
        raise ConfigError(f"batch: {given!r} came; {scenario.name} sends {fixed} image(s) in a request")
    return workload.parse_mix(given or fixed or ("64" if scenario.name == "offline" else "1"))


class Progress:
    """Is told how a campaign goes. This one keeps quiet."""

    def asking(self, done: int, total: int) -> None:
        """Right answers are being collected."""

    def started(self, title: str, load: Load, tally: Tally) -> None:
        """A run begins; `tally` grows while it lasts."""

    def tick(self, seconds: float) -> None:
        """Some time of the run has passed."""

    def ended(self, title: str, run: Run) -> None:
        """A run is over."""


class Campaign:
    """One load test. `prepare`, then one of the others; use it as a context manager."""

    def __init__(self, options: Options, progress: Progress) -> None:
        """Nothing is started yet."""
        self.options = options
        self.progress = progress
        self.runs: list[Run] = []
        """All runs so far."""
        self.telling = 0.0
        """The share of samples whose answers differ from the next one's: whether a mix-up would show."""
        self.facts: ModelFacts | None = None
        self._expected: list[Expected] = []
        self._fleet: Fleet | None = None

    def __enter__(self) -> Campaign:
        """Nothing to do."""
        return self

    def __exit__(self, *_: object) -> None:
        """End the client processes."""
        if self._fleet is not None:
            self._fleet.close()

    def prepare(self) -> None:
        """Ask the server, build the requests, start the processes.

        Raises:
            ConvserveError: the server, the model or the data cannot be used; says why.
        """
        options = self.options
        dialect = dialects.make(options.wanted)
        asker = Asker(options.target)
        try:
            self.facts = asker.facts(options.wanted)
            chosen = samples.load(options.data, options.form, self.facts, options.sample_count, options.seed)
            compares_labels = options.check == "labels" or options.goals.min_accuracy > 0
            if compares_labels and not any(sample.label is not None for sample in chosen):
                raise ConfigError(
                    f"min-accuracy: {options.data} has no labels that the model {options.wanted.model} knows; its"
                    f" classes are {', '.join(self.facts.labels[:10])}"
                )
            if options.check == "golden":
                total = len(chosen)
                self._expected = asker.expected(chosen, dialect, lambda done: self.progress.asking(done, total))
                self.telling = workload.telling(self._expected)
        finally:
            asker.close()
        requests = workload.prepare(chosen, self._expected, options.mix, dialect, options.seed)
        processes = 1 if options.scenario.name in ("single-stream", "multi-stream") else options.processes
        self._fleet = Fleet(Setup(options.target, options.wanted, requests), processes)

    def measure(self, load: Load, rate: float | None, title: str) -> Run:
        """Make one run.

        Raises:
            ConvserveError: the server cannot be reached, or a client process failed.
        """
        if self._fleet is None:
            raise ConvserveError("the campaign was not prepared")
        load = replace(load, seed=load.seed + len(self.runs))  # the same again would repeat the same luck
        tally = Tally(load.warmup, load.seconds)
        self.progress.started(title, load, tally)
        clients = self._fleet.run(load, tally.take, self.progress.tick)
        run = Run(self.options.scenario, load, rate, tally, clients, self.options.goals)
        self.runs.append(run)
        self.progress.ended(title, run)
        return run

    def single(self) -> Run:
        """One run at the rate or with the callers that were asked for."""
        rate = self.options.rate if self.options.scenario.open_loop else None
        return self.measure(load_of(self.options, rate), rate, self.options.scenario.name)

    def sweep(self, rates: Sequence[float], pause: Callable[[float], None] = time.sleep) -> list[Run]:
        """One run at each rate; between two, the server gets time to finish what it has."""
        runs = []
        for rate in rates:
            runs.append(self.measure(load_of(self.options, rate), rate, f"{rate:,.0f} requests/s"))
            pause(0.5)
        return runs

    def search(self, pause: Callable[[float], None] = time.sleep) -> Found:
        """The highest rate that keeps the SLO. Begins at half of what a closed loop gets.

        A client that falls behind adds to latency and takes nothing away, so what is kept in an invalid run is kept.
        What is missed in one is tried again, and remains missed in doubt.
        """
        closed = replace(load_of(self.options, None), seconds=min(self.options.seconds, 5.0), callers=64, count=None)
        probe = self.measure(closed, None, "capacity, 64 in flight")
        self.runs.remove(probe)
        pause(0.5)
        doubtful: list[float] = []

        def passes(rate: float) -> bool:
            for _ in range(_DOUBTFUL_TRIES):
                run = self.measure(load_of(self.options, rate), rate, f"{rate:,.0f} requests/s")
                pause(0.5)
                if run.within_slo and run.sustained:
                    return True
                if not run.invalid:
                    return False
            doubtful.append(rate)
            return False

        found = search(passes, max(probe.throughput / 2, self.lowest_rate), lowest=self.lowest_rate)
        found.in_doubt = bool(doubtful)
        return found

    @property
    def lowest_rate(self) -> float:
        """The rate below which a run has too few requests to say anything about the SLO's percentile."""
        rarest = max((one.percentile for one in self.options.goals.slos), default=0.0)
        return _LEAST_SLOW / (1 - rarest) / self.options.seconds

    def conditions(self) -> dict[str, Any]:
        """What a reader has to know to compare or repeat the runs."""
        options = self.options
        return {
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "target": options.target.authority,
            "tls": options.target.tls,
            "model": options.wanted.model,
            "model_versions": sorted({one.version for one in self._expected}) or [options.wanted.version or "default"],
            "dialect": options.wanted.dialect,
            "explained": options.wanted.explain,
            "data": options.data,
            "form": options.form,
            "samples": options.sample_count,
            "batch": str(options.mix),
            "check": options.check,
            "answers_that_differ_from_the_next": self.telling,
            "connections": options.connections,
            "processes": options.processes,
            "timeout_seconds": options.target.timeout,
            "seed": options.seed,
            "client_machine": {
                "host": platform.node(),
                "cores_allowed": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
                "load_average": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
                "system": platform.platform(),
            },
            "software": {name: version(name) for name in ("convserve", "grpcio", "numpy", "protobuf")},
            "python": platform.python_version(),
        }
