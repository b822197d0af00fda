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


def measure(target: str, model: str, callers: Sequence[int], runs: int, quiet: Quiet) -> dict[str, Any]:
    """All comparisons against one server."""
    with Client(target, coalesce=False) as single, Client(target) as coalesced:
        clients = {"single": single, "coalesced": coalesced}
        (info,) = [one for one in single.models() if one.name == model]
        shape = info.versions[0].input_shape
        images = np.random.default_rng(0).integers(0, 256, (64, *shape), dtype=np.uint8)
        for client in clients.values():
            expected = [one.index for one in client.classify_batch(images, model=model)]
            assert [client.classify(image, model=model).index for image in images] == expected

        def with_threads(way: str, count: int) -> float:
            return throughput(clients[way], images, model, count)

        def with_tasks(way: str, count: int) -> float:
            return asyncio.run(throughput_of_tasks(target, images, model, count, coalesce=way == "coalesced"))

        most = max(callers)
        loads: list[tuple[str, int, Callable[[str, int], float]]] = [
            *[(f"{count} threads", count, with_threads) for count in callers],
            (f"{most} tasks", most, with_tasks),
        ]
        rates: dict[str, dict[str, list[float]]] = {name: {way: [] for way in WAYS} for name, _, _ in loads}
        alone: dict[str, list[float]] = {way: [] for way in WAYS}
        for run in range(runs):
            for way, seconds in quiet(lambda: lone(clients, images, model)).items():
                alone[way].append(seconds)
            for name, count, one in loads:
                for way in WAYS if run % 2 else tuple(reversed(WAYS)):
                    rates[name][way].append(quiet(functools.partial(one, way, count)))
                latest = {way: round(found[-1]) for way, found in rates[name].items()}
                print(f"{model}, run {run + 1}: {name}: {latest} images/s", file=sys.stderr, flush=True)
        return {
            "images_per_second": {name: compare(found) for name, found in rates.items()},
            "lone_caller_p50_seconds": compare(alone),
        }


def main() -> None:
    """Measure and keep the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--callers", type=int, nargs="+", default=[4, 16, 64], help="threads (default: 4 16 64)")
    parser.add_argument("--runs", type=int, default=3, help="repetitions of everything (default: 3)")
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
            target = f"127.0.0.1:{server.port}"
            found = {model: measure(target, model, arguments.callers, arguments.runs, quiet) for model in MODELS}
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
    print(path)


if __name__ == "__main__":
    main()
