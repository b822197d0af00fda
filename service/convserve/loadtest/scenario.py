"""The kinds of load, with MLPerf's words and rules where they are MLPerf's."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Rules:
    """What MLPerf Inference asks of a scenario (`inference_rules.adoc`)."""

    percentile: float | None
    """The percentile of latency that it looks at; None: throughput is the metric."""
    metric: str
    """The metric in words."""
    seconds: float = 600.0
    """Shortest run."""
    queries: int = 1
    """Fewest queries."""
    samples: int = 1
    """Fewest images."""


@dataclass(frozen=True)
class Scenario:
    """A kind of load."""

    name: str
    summary: str
    open_loop: bool
    """Whether requests come by the clock, whatever the answers do."""
    rules: Rules | None = None
    """MLPerf's rules; None: MLPerf does not know this load."""


SCENARIOS = {
    one.name: one
    for one in (
        Scenario(
            "server",
            "Poisson arrivals at --rate, as from many independent callers (MLPerf Server)",
            True,
            Rules(0.99, "highest Poisson rate whose p99 latency is within its bound", queries=662),
        ),
        Scenario(
            "single-stream",
            "one image at a time, the next when the last is answered (MLPerf SingleStream)",
            False,
            Rules(0.9, "early-stopping estimate of p90 latency", queries=64),
        ),
        Scenario(
            "multi-stream",
            "eight images in a request, the next when the last is answered (MLPerf MultiStream)",
            False,
            Rules(0.99, "early-stopping estimate of p99 latency", queries=662),
        ),
        Scenario(
            "offline",
            "24,576 or more images as fast as they are taken (MLPerf Offline)",
            False,
            Rules(None, "images per second", samples=24_576),
        ),
        Scenario("constant", "evenly spaced arrivals at --rate", True),
        Scenario("closed", "--in-flight requests at all times", False),
        Scenario("ramp", "Poisson arrivals from a tenth of --rate up to --rate", True),
        Scenario("spike", "Poisson arrivals at --rate, three times that in the middle fifth", True),
    )
}
OFFLINE_SAMPLES, MULTI_STREAM_SAMPLES = 24_576, 8
RAMP_FIRST, SPIKE_PEAK = 0.1, 3.0
"""Shares of --rate."""


def shortfalls(rules: Rules, seconds: float, queries: int, samples: int) -> list[str]:
    """What keeps a run from following MLPerf's rules, in sentences; empty: nothing that this tool can see."""
    found = []
    if seconds < rules.seconds * 0.999:
        found.append(f"it lasted {seconds:.0f} s; {rules.seconds:.0f} s are the least")
    if queries < rules.queries:
        found.append(f"it had {queries} queries; {rules.queries} are the least")
    if samples < rules.samples:
        found.append(f"it had {samples} images; {rules.samples} are the least")
    return found
