"""Single images of many callers: one RPC each, or together; and what coalescing costs a caller who is alone.

One server process on one core, one client process on the other, as in the other benchmarks. Both ways of calling
alternate within one run, with clients of the same settings but for `coalesce`.

Two models: the bundled `mnist`, whose own time limits what coalescing can gain, and `stripes`, a small linear model
that costs almost nothing, so that the calls themselves are measured. A measurement during which other programs took
more than a tenth of a core is thrown away and repeated.

    python -m benchmarks.coalescing --callers 4 16 64 --runs 3
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import os
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from benchmarks import common
from convserve import AsyncClient, Client
from convserve.arrays import Images

sys.path.append(str(common.ROOT / "tests"))
from support import versions  # the tests' small model

SECONDS = 1.0
"""How long each measurement of throughput takes."""
LONE_BLOCKS, LONE_CALLS = 10, 50
"""A lone caller alternates after so many calls, so many times: slow drifts of the machine hit both ways alike."""
WAYS = ("single", "coalesced")
MODELS = ("mnist", "stripes")
DISTURBED_CORES, MOST_REPETITIONS = 0.1, 200

T = TypeVar("T")


class Quiet:
    """Repeats measurements that other programs have disturbed."""

    def __init__(self, server: common.Running) -> None:
        """The server's and this process's own CPU time do not count as disturbance."""
        self._server = server
        self.thrown_away = 0
        """Measurements that were repeated."""
        self.disturbed_kept = 0
        """Measurements that stayed disturbed after many repetitions."""

    def __call__(self, measure: Callable[[], T]) -> T:
        """Measure, again if need be."""
        for _ in range(MOST_REPETITIONS):
            self._await_silence()
            others, started = self._others(), time.perf_counter()
            found = measure()
            if (self._others() - others) / (time.perf_counter() - started) <= DISTURBED_CORES:
                return found
            self.thrown_away += 1
        self.disturbed_kept += 1
        return found

    def _await_silence(self) -> None:
        """Return when nobody else has computed for a moment, or after a minute."""
        for _ in range(300):
            others = self._others()
            time.sleep(0.2)
            if self._others() - others <= DISTURBED_CORES * 0.2:
                return

    def _others(self) -> float:
        """Seconds of CPU that other programs have used so far."""
        spent = sum(map(int, Path("/proc/stat").read_text().split(maxsplit=4)[1:4]))  # user, nice, system
        return spent / os.sysconf("SC_CLK_TCK") - sum(os.times()[:2]) - self._server.cpu_seconds()


def throughput(client: Client, images: Images, model: str, callers: int) -> float:
    """Images per second of so many threads, each of which waits for its answer before it asks again."""
    counts = [0] * callers
    ready = threading.Barrier(callers + 1)

    def call(at: int) -> None:
        image = images[at % len(images)]
        ready.wait()
        while time.perf_counter() < ends:
            client.classify(image, model=model)
            counts[at] += 1

    threads = [threading.Thread(target=call, args=(at,)) for at in range(callers)]
    for thread in threads:
        thread.start()
    started = time.perf_counter()
    ends = started + SECONDS
    ready.wait()
    for thread in threads:
        thread.join()
    return sum(counts) / (time.perf_counter() - started)


async def throughput_of_tasks(target: str, images: Images, model: str, callers: int, *, coalesce: bool) -> float:
    """The same with the asynchronous client and tasks."""
    count = 0

    async def call(at: int) -> None:
        nonlocal count
        while time.perf_counter() < ends:
            await client.classify(images[at % len(images)], model=model)
            count += 1

    async with AsyncClient(target, coalesce=coalesce) as client:
        await asyncio.gather(*[client.classify(images[0], model=model) for _ in range(8)])
        started = time.perf_counter()
        ends = started + SECONDS
        await asyncio.gather(*[call(at) for at in range(callers)])
        return count / (time.perf_counter() - started)


def lone(clients: dict[str, Client], images: Images, model: str) -> dict[str, float]:
    """Median seconds of a call when nobody else calls, for both ways, alternating."""
    times: dict[str, list[float]] = {way: [] for way in WAYS}
    for block in range(LONE_BLOCKS):
        for way in WAYS if block % 2 else reversed(WAYS):
            for at in range(LONE_CALLS):
                started = time.perf_counter()
                clients[way].classify(images[at % len(images)], model=model)
                times[way].append(time.perf_counter() - started)
    return {way: statistics.median(found) for way, found in times.items()}


def compare(values: dict[str, list[float]]) -> dict[str, Any]:
    """Both ways, and the ratio of each run, whose halves were measured one after the other."""
    ratios = [together / alone for alone, together in zip(values["single"], values["coalesced"], strict=True)]
    return {**{way: common.summary(values[way]) for way in WAYS}, "coalesced_over_single": common.summary(ratios)}


class Comparison:
    """Both ways of calling one model, measured run by run."""

    def __init__(self, model: str, target: str, callers: Sequence[int], quiet: Quiet) -> None:
        """Connect, and check that both ways give the right answers."""
        self._model, self._target, self._quiet = model, target, quiet
        self._clients = {way: Client(target, coalesce=way == "coalesced") for way in WAYS}
        (info,) = [one for one in self._clients["single"].models() if one.name == model]
        shape = info.versions[0].input_shape
        self._images = np.random.default_rng(0).integers(0, 256, (64, *shape), dtype=np.uint8)
        for client in self._clients.values():
            expected = [one.index for one in client.classify_batch(self._images, model=model)]
            assert [client.classify(image, model=model).index for image in self._images] == expected
        self._loads: list[tuple[str, int, Callable[[str, int], float]]] = [
            *[(f"{count} threads", count, self._with_threads) for count in callers],
            (f"{max(callers)} tasks", max(callers), self._with_tasks),
        ]
        self._rates: dict[str, dict[str, list[float]]] = {name: {way: [] for way in WAYS} for name, _, _ in self._loads}
        self._alone: dict[str, list[float]] = {way: [] for way in WAYS}

    def _with_threads(self, way: str, count: int) -> float:
        return throughput(self._clients[way], self._images, self._model, count)

    def _with_tasks(self, way: str, count: int) -> float:
        coalesce = way == "coalesced"
        return asyncio.run(throughput_of_tasks(self._target, self._images, self._model, count, coalesce=coalesce))

    def run(self) -> None:
        """Measure everything once more."""
        for way, seconds in self._quiet(lambda: lone(self._clients, self._images, self._model)).items():
            self._alone[way].append(seconds)
        for name, count, measure in self._loads:
            for way in WAYS if len(self._rates[name]["single"]) % 2 else tuple(reversed(WAYS)):
                self._rates[name][way].append(self._quiet(functools.partial(measure, way, count)))
            latest = {way: round(found[-1]) for way, found in self._rates[name].items()}
            print(f"{self._model}, {name}: {latest} images/s", file=sys.stderr, flush=True)

    def result(self) -> dict[str, Any]:
        """All runs so far."""
        return {
            "images_per_second": {name: compare(found) for name, found in self._rates.items()},
            "lone_caller_p50_seconds": compare(self._alone),
        }


def main() -> None:
    """Measure, and keep the result after every run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--callers", type=int, nargs="+", default=[4, 16, 64], help="threads (default: 4 16 64)")
    parser.add_argument("--runs", type=int, default=5, help="repetitions of everything (default: 5)")
    arguments = parser.parse_args()
    conditions = common.conditions()
    with tempfile.TemporaryDirectory() as folder:
        repository = Path(folder)
        versions.write_version(repository, "stripes")
        (repository / "mnist").symlink_to(common.ROOT / "models/mnist")
        serve = [sys.executable, "-m", "convserve", "serve", "--model-repository", folder]
        peer = common.Peer("convserve", [*serve, "--port", "0", "--http-port", "0", "--log-level", "error"])
        with common.running(peer) as server:
            os.sched_setaffinity(0, {common.CLIENT_CORE})
            quiet = Quiet(server)
            models = {
                model: Comparison(model, f"127.0.0.1:{server.port}", arguments.callers, quiet) for model in MODELS
            }
            for _ in range(arguments.runs):
                for comparison in models.values():
                    comparison.run()
                keep(conditions, quiet, {model: comparison.result() for model, comparison in models.items()})


def keep(conditions: dict[str, Any], quiet: Quiet, found: dict[str, Any]) -> None:
    """Write the result, and show what matters of it."""
    result = {
        "what": "single images of concurrent callers, one RPC each or coalesced; median, spread (half the range), runs",
        "conditions": {
            **conditions,
            "load_average_after": os.getloadavg()[0],
            "images": "packed uint8 in the model's shape",
            "seconds_per_measurement": SECONDS,
            "lone_calls_per_run": LONE_BLOCKS * LONE_CALLS,
            "measurements_thrown_away_as_disturbed": quiet.thrown_away,
            "measurements_kept_although_disturbed": quiet.disturbed_kept,
        },
        "models": found,
    }
    path = common.write_result("coalescing", result)
    for model, figures in found.items():
        for name, rate in figures["images_per_second"].items():
            gain = rate["coalesced_over_single"]
            print(f"{model}, {name}: {gain['median']:.2f} times the throughput (spread {gain['spread']:.0%})")
        alone = figures["lone_caller_p50_seconds"]["coalesced_over_single"]
        print(f"{model}, a lone caller's p50: {alone['median'] - 1:+.1%} (spread {alone['spread']:.1%})")
    print(path, flush=True)


if __name__ == "__main__":
    main()
