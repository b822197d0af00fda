"""One run, measured and judged."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from convserve.loadtest import confidence, scenario, slo, validity
from convserve.loadtest.histogram import Histogram
from convserve.loadtest.process import Load
from convserve.loadtest.records import ClientStats
from convserve.loadtest.scenario import Scenario
from convserve.loadtest.slo import Slo, Verdict
from convserve.loadtest.tally import Tally, status_name
from convserve.loadtest.workload import Check

PERCENTILES = (0.5, 0.9, 0.95, 0.99, 0.999)


@dataclass(frozen=True)
class Goals:
    """What a run is to keep."""

    slos: tuple[Slo, ...] = ()
    min_accuracy: float = 0.0
    """Least share of labelled images that must be classified rightly."""


class Run:
    """What came of a load."""

    def __init__(
        self,
        scene: Scenario,
        load: Load,
        rate: float | None,
        tally: Tally,
        clients: Sequence[ClientStats],
        goals: Goals,
    ) -> None:
        """Judge. `rate` is what was offered, in requests per second; None in a closed loop."""
        self.scenario = scene
        self.load = load
        self.rate = rate
        self.tally = tally
        self.clients = clients
        self.goals = goals
        self.check = Check()
        self.details: dict[int, str] = {}
        for client in clients:
            self.check.add(client.check)
            for code, text in client.details.items():
                self.details.setdefault(code, text)
        self.verdicts: list[Verdict] = [slo.judge(one, tally.latencies, tally.failed) for one in goals.slos]
        self.invalid = validity.problems(tally, clients, open_loop=scene.open_loop)
        if scene.open_loop and load.profile is not None and load.poisson is False:
            planned = load.profile.total - load.warmup * load.profile.rate_at(0)
            if tally.requests < 0.99 * planned - 1:
                self.invalid.append(f"{tally.requests} requests were sent; {planned:.0f} were planned")

    @property
    def seconds(self) -> float:
        """How long the measured part was."""
        if self.load.count is None:
            return self.load.seconds
        return max(self.tally.last_done - self.load.warmup, 1e-9)

    @property
    def throughput(self) -> float:
        """Answered requests per second."""
        count = self.tally.statuses[0] if self.load.count is not None else self.tally.finished_requests
        return count / self.seconds

    @property
    def images_per_second(self) -> float:
        """Answered images per second."""
        rows = self.tally.rows if self.load.count is not None else self.tally.finished_rows
        return rows / self.seconds

    @property
    def accuracy(self) -> float | None:
        """Share of labelled images that were classified rightly; None when no label is known."""
        return self.check.right / self.check.labelled if self.check.labelled else None

    @property
    def within_slo(self) -> bool:
        """Whether every promise was kept and no answer was wrong."""
        return all(verdict.met for verdict in self.verdicts) and not self.check.wrong

    @property
    def sustained(self) -> bool:
        """Whether the server kept up: of the requests meant for the measured time nearly all were answered in it.

        At a rate above capacity the queue grows, and the fewer seconds a run has the better it looks.
        """
        requests = self.tally.requests
        return self.tally.finished_requests >= 0.95 * requests - 3 * math.sqrt(requests)

    @property
    def failures(self) -> list[str]:
        """Why the run failed, in sentences; empty: it did not."""
        found = []
        if self.check.wrong:
            found.append(f"{self.check.wrong} of {self.check.rows} answers were wrong; first: {self.check.first_wrong}")
        if not self.tally.requests:
            found.append("no request was counted: the measured time was too short for the rate")
        elif not self.tally.statuses[0]:
            found.append(f"none of {self.tally.requests} requests was answered; {self._first_error()}")
        for verdict in self.verdicts:
            if not verdict.met:
                reached = self.percentile(verdict.slo.percentile)
                shown = "more than the bound, with failed requests" if reached is None else f"{reached * 1e3:.2f} ms"
                found.append(
                    f"SLO {verdict.slo} was missed: {shown}; {verdict.slow} of {verdict.requests} requests were slower"
                    " or failed"
                )
        if self.goals.min_accuracy and (self.accuracy is None or self.accuracy < self.goals.min_accuracy):
            was = (
                "is not known: no labelled image was answered" if self.accuracy is None else f"was {self.accuracy:.4f}"
            )
            found.append(f"accuracy {was}; at least {self.goals.min_accuracy:.4f} is wanted")
        return found

    def _first_error(self) -> str:
        """The commonest status and its first text."""
        code = self.tally.statuses.most_common(1)[0][0]
        return f"{status_name(code)}: {self.details.get(code, '')}"

    def percentile(self, share: float) -> float | None:
        """Latency in seconds, failed requests counted as slower than all others; None: it falls on a failed one."""
        good, failed = self.tally.latencies.count, self.tally.failed
        place = share * (good + failed)
        return None if not good or place > good else self.tally.latencies.percentile(min(place / good, 1.0))

    def estimate(self, share: float) -> float | None:
        """LoadGen's early-stopping estimate of a percentile in seconds; None: too few requests, or too many failed."""
        rank = confidence.estimate_rank(self.tally.requests, share)
        return self.tally.latencies.at_rank(rank) if rank is not None and rank <= self.tally.latencies.count else None

    @property
    def shortfalls(self) -> list[str]:
        """What keeps the run from following MLPerf's rules."""
        rules = self.scenario.rules
        if rules is None:
            return []
        return scenario.shortfalls(rules, self.seconds, self.tally.requests, self.tally.rows)

    def to_json(self) -> dict[str, Any]:
        """Everything, for scripts; times in seconds."""
        tally, rules = self.tally, self.scenario.rules
        percentile = 0.99 if rules is None or rules.percentile is None else rules.percentile
        return {
            "scenario": self.scenario.name,
            "offered_requests_per_second": self.rate,
            "in_flight": self.load.callers or None,
            "warmup_seconds": self.load.warmup,
            "measured_seconds": self.seconds,
            "requests": tally.requests,
            "requests_per_second": self.throughput,
            "images_per_second": self.images_per_second,
            "statuses": {status_name(code): count for code, count in sorted(tally.statuses.items())},
            "first_error_texts": {status_name(code): text for code, text in self.details.items()},
            "latency_seconds": {
                **_summary(tally.latencies),
                **{slo.name_of(share): self.percentile(share) for share in PERCENTILES},
                "hdr_histogram_microseconds": tally.latencies.encode(),
            },
            "confidence": {
                "rule": "LoadGen early stopping, 99 %",
                "percentile": slo.name_of(percentile),
                "estimate_seconds": self.estimate(percentile),
                "requests_needed": confidence.needed_requests(1, percentile),
            },
            "server_seconds": {
                name: _summary(histogram) for name, histogram in self._parts().items() if histogram.count
            },
            "batches": {
                str(rows): {"requests": count, "mean_run_seconds": total / count}
                for rows, (count, total) in sorted(tally.batch_seconds.items())
            },
            "answers": {**asdict(self.check), "accuracy": self.accuracy},
            "slo": [
                {
                    "slo": str(verdict.slo),
                    "met": verdict.met,
                    "certain_at_99_percent": verdict.shown,
                    "slow_or_failed": verdict.slow,
                    "requests_needed_for_certainty": verdict.needed,
                }
                for verdict in self.verdicts
            ],
            "mlperf": None if rules is None else {"metric": rules.metric, "rules_not_met": self.shortfalls},
            "client": {
                "lag_seconds": _summary(tally.lags),
                "processes": [
                    {
                        "busy_share": client.busy_seconds / client.seconds,
                        "cpu_share": client.cpu_seconds / client.seconds,
                        "waiting_for_core_share": client.starved_seconds / client.seconds,
                    }
                    for client in self.clients
                    if client.seconds > 0
                ],
            },
            "invalid": self.invalid,
            "failures": self.failures,
            "by_second": [
                {
                    "second": second,
                    "statuses": {status_name(code): count for code, count in entry.statuses.items()},
                    **_summary(entry.latencies),
                }
                for second, entry in sorted(tally.seconds.items())
            ],
        }

    def _parts(self) -> dict[str, Histogram]:
        tally = self.tally
        return {"queue": tally.queues, "batch_wait": tally.waits, "run": tally.runs, "outside": tally.outsides}


def _summary(histogram: Histogram) -> dict[str, float]:
    quantiles = {slo.name_of(share): histogram.percentile(share) for share in PERCENTILES}
    return {"mean": histogram.mean, **quantiles, "max": histogram.maximum}
