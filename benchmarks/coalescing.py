"""Single images of many callers: one RPC each, or together; and what coalescing costs a caller who is alone.

One server process on one core, one client process on the other, as in the other benchmarks; and, for the most callers,
both processes on both cores, where what one saves the other can use. Both ways of calling alternate within one run,
with clients of the same settings (the default ones) but for `coalesce`; callers are threads with `Client` or tasks with
`AsyncClient`, each waits for its answer before it asks again, and every answer is checked.

Two models: the bundled `mnist`, whose own time limits what coalescing can gain, and `light`, as cheap as the preset
`mnist-simple`. The result says for each rate which of the two cores was busy, what CPU time an image costs on either,
and what onnxruntime alone does on the server's core: no way of calling can get more than that.

    python -m benchmarks.coalescing --runs 5
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import itertools
import os
import shutil
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import common, light, throughput
from benchmarks.quiet import Quiet
from convserve import AsyncClient, Client
from convserve.arrays import Images

SECONDS = 0.7
"""How long each measurement of throughput takes."""
ORDER = ("single", "coalesced", "coalesced", "single")
"""The measurements of one run: slow drifts of the machine hit both ways alike."""
LONE_BLOCKS, LONE_CALLS = 10, 50
"""A lone caller alternates after so many calls, so many times, for the same reason."""
WAYS = ("single", "coalesced")
MODELS = (light.NAME, "mnist")
APART, TOGETHER = "a core each", "both on both cores"
CORES = {
    APART: ((common.SERVER_CORE,), (common.CLIENT_CORE,)),
    TOGETHER: ((common.SERVER_CORE, common.CLIENT_CORE),) * 2,
}
"""Where server and client run."""


@dataclass
class Rate:
    """A measurement of throughput."""

    images: int = 0
    seconds: float = 0.0
    client_seconds: float = 0.0
    """CPU time of the client's process."""
    server_seconds: float = 0.0
    """CPU time of the server's process."""

    def __add__(self, other: Rate) -> Rate:
        """Two measurements as one."""
        return Rate(
            self.images + other.images,
            self.seconds + other.seconds,
            self.client_seconds + other.client_seconds,
            self.server_seconds + other.server_seconds,
        )

    @contextmanager
    def measured(self, server: common.Running) -> Iterator[None]:
        """Measure the time that a block takes."""
        started, client, served = time.perf_counter(), time.process_time(), server.cpu_seconds()
        yield
        self.seconds = time.perf_counter() - started
        self.client_seconds = time.process_time() - client
        self.server_seconds = server.cpu_seconds() - served


class Work:
    """One model's images, asked for over and over."""

    def __init__(self, model: str, server: common.Running) -> None:
        """Connect, and check that both ways give the right answers."""
        self.model, self._server = model, server
        self._target = f"127.0.0.1:{server.port}"
        self._clients = {way: self._client(way) for way in WAYS}
        shape = self._clients["single"].model(model).versions[0].input_shape
        self._images: Images = np.random.default_rng(0).integers(0, 256, (64, *shape), dtype=np.uint8)
        self._answers = [one.index for one in self._clients["single"].classify_batch(self._images, model=model)]

    def _client(self, way: str) -> Client:
        return Client(self._target, coalesce=way == "coalesced")

    def _async_client(self, way: str) -> AsyncClient:
        return AsyncClient(self._target, coalesce=way == "coalesced")

    def threads(self, way: str, callers: int) -> Rate:
        """Throughput of threads."""
        found, counts, client = Rate(), [0] * callers, self._clients[way]
        wrong = [0] * callers
        ready = threading.Barrier(callers + 1)

        def call(at: int) -> None:
            image, answer = self._question(at)
            ready.wait()
            while time.perf_counter() < ends:
                wrong[at] += client.classify(image, model=self.model).index != answer
                counts[at] += 1

        threads = [threading.Thread(target=call, args=(at,)) for at in range(callers)]
        for thread in threads:
            thread.start()
        with found.measured(self._server):
            ends = time.perf_counter() + SECONDS
            ready.wait()
            for thread in threads:
                thread.join()
        found.images = sum(counts)
        check(sum(wrong))
        return found

    def tasks(self, way: str, callers: int) -> Rate:
        """Throughput of tasks."""
        found, ends, wrong = Rate(), 0.0, 0

        async def call(client: AsyncClient, at: int) -> None:
            nonlocal wrong
            image, answer = self._question(at)
            while time.perf_counter() < ends:
                wrong += (await client.classify(image, model=self.model)).index != answer
                found.images += 1

        async def run() -> None:
            nonlocal ends
            async with self._async_client(way) as client:
                await asyncio.gather(*[client.classify(self._images[0], model=self.model) for _ in range(8)])
                with found.measured(self._server):
                    ends = time.perf_counter() + SECONDS
                    await asyncio.gather(*[call(client, at) for at in range(callers)])

        asyncio.run(run())
        check(wrong)
        return found

    def lone_thread(self) -> dict[str, float]:
        """Median seconds of a call when nobody else calls, for both ways, alternating."""
        times: dict[str, list[float]] = {way: [] for way in WAYS}
        for way, image in self._lone_calls():
            started = time.perf_counter()
            self._clients[way].classify(image, model=self.model)
            times[way].append(time.perf_counter() - started)
        return {way: statistics.median(found) for way, found in times.items()}

    def lone_task(self) -> dict[str, float]:
        """The same with the asynchronous client."""
        times: dict[str, list[float]] = {way: [] for way in WAYS}

        async def run() -> None:
            async with self._async_client("single") as single, self._async_client("coalesced") as coalesced:
                clients = {"single": single, "coalesced": coalesced}
                for client in clients.values():
                    await client.classify_batch(self._images, model=self.model)
                for way, image in self._lone_calls():
                    started = time.perf_counter()
                    await clients[way].classify(image, model=self.model)
                    times[way].append(time.perf_counter() - started)

        asyncio.run(run())
        return {way: statistics.median(found) for way, found in times.items()}

    def _question(self, at: int) -> tuple[Any, int]:
        """A caller's image, and the right answer."""
        return self._images[at % len(self._images)], self._answers[at % len(self._images)]

    def _lone_calls(self) -> Iterator[tuple[str, Any]]:
        for block in range(LONE_BLOCKS):
            for way in WAYS if block % 2 else reversed(WAYS):
                for at in range(LONE_CALLS):
                    yield way, self._images[at % len(self._images)]


def check(wrong: int) -> None:
    """End when callers got wrong answers, or each other's."""
    if wrong:
        raise RuntimeError(f"{wrong} wrong answers")


@dataclass
class Comparison:
    """Both ways of calling one model, run by run."""

    work: Work
    callers: Sequence[int]
    rates: dict[str, dict[str, list[Rate]]] = field(default_factory=dict)
    alone: dict[str, dict[str, list[float]]] = field(default_factory=dict)

    def run(self, quiet: Quiet) -> None:
        """Measure everything once more."""
        for caller, measure in (("thread", self.work.lone_thread), ("task", self.work.lone_task)):
            for way, seconds in quiet(measure).items():
                self.alone.setdefault(caller, {way: [] for way in WAYS})[way].append(seconds)
        for count in self.callers:
            for kind, load in (("threads", self.work.threads), ("tasks", self.work.tasks)):
                self._load(f"{count} {kind}", functools.partial(load, callers=count), quiet)

    def _load(self, name: str, measure: Callable[[str], Rate], quiet: Quiet) -> None:
        rates = self.rates.setdefault(name, {way: [] for way in WAYS})
        found = {way: Rate() for way in WAYS}
        for way in ORDER:
            found[way] += quiet(functools.partial(measure, way))
        for way in WAYS:
            rates[way].append(found[way])
        latest = {way: round(found[-1].images / found[-1].seconds) for way, found in rates.items()}
        print(f"{self.work.model}, {name}: {latest} images/s", file=sys.stderr, flush=True)

    def result(self) -> dict[str, Any]:
        """All runs so far."""
        return {
            "images_per_second": {
                name: {
                    **compare({way: [one.images / one.seconds for one in found] for way, found in rates.items()}),
                    **{way: summary(found) for way, found in rates.items()},
                }
                for name, rates in self.rates.items()
            },
            "lone_caller_p50_seconds": {
                caller: {**compare(times), **{way: common.summary(found) for way, found in times.items()}}
                for caller, times in self.alone.items()
            },
        }


def compare(values: dict[str, list[float]]) -> dict[str, Any]:
    """The ratio of each run, whose halves were measured one after the other."""
    ratios = [together / alone for alone, together in zip(values["single"], values["coalesced"], strict=True)]
    return {"coalesced_over_single": common.summary(ratios)}


def summary(found: list[Rate]) -> dict[str, float]:
    """Rate with spread, how busy both processes were, and what an image cost them."""
    return {
        **common.summary([one.images / one.seconds for one in found]),
        "client_core_busy": round(statistics.median(one.client_seconds / one.seconds for one in found), 3),
        "server_core_busy": round(statistics.median(one.server_seconds / one.seconds for one in found), 3),
        "client_cpu_us_per_image": round(statistics.median(one.client_seconds / one.images for one in found) * 1e6, 1),
        "server_cpu_us_per_image": round(statistics.median(one.server_seconds / one.images for one in found) * 1e6, 1),
    }


def cpu(rate: dict[str, float]) -> str:
    """What an image costs."""
    return f"client {rate['client_cpu_us_per_image']:.0f} µs, server {rate['server_cpu_us_per_image']:.0f} µs"


def main() -> None:
    """Measure, and keep the result after every run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--callers", type=int, nargs="+", default=[4, 16, 64], help="callers (default: 4 16 64)")
    parser.add_argument("--runs", type=int, default=5, help="repetitions of everything (default: 5)")
    parser.add_argument(
        "--minutes", type=float, default=5.0, help="after which nothing disturbed is repeated (default: 5)"
    )
    arguments = parser.parse_args()
    conditions = common.conditions()
    with tempfile.TemporaryDirectory() as folder:
        repository = Path(folder)
        light.write_version(repository)
        shutil.copytree(common.ROOT / "models/mnist", repository / "mnist")
        raw = {model: throughput.raw(common.newest(repository / model)) for model in MODELS}
        serve = [sys.executable, "-m", "convserve", "serve", "--model-repository", folder]
        peer = common.Peer("convserve", [*serve, "--port", "0", "--http-port", "0", "--log-level", "error"])
        found: dict[str, dict[str, Any]] = {}
        for place, (server_cores, client_cores) in CORES.items():
            callers = arguments.callers if place == APART else arguments.callers[-1:]
            with common.running(peer, cores=server_cores) as server:
                os.sched_setaffinity(0, client_cores)
                quiet = Quiet(server, arguments.minutes * 60 * len(callers) / (len(arguments.callers) + 1))
                comparisons = [Comparison(Work(model, server), callers) for model in MODELS]
                for at in range(arguments.runs):
                    if at and quiet.time_is_up:
                        break
                    for comparison in comparisons:
                        comparison.run(quiet)
                    found[place] = {
                        "measurements_thrown_away_as_disturbed": quiet.thrown_away,
                        "measurements_kept_although_disturbed": quiet.disturbed_kept,
                        "models": {one.work.model: one.result() for one in comparisons},
                    }
                    keep(conditions, raw, found)


def keep(conditions: dict[str, Any], raw: dict[str, Any], found: dict[str, dict[str, Any]]) -> None:
    """Write the result, and show what matters of it."""
    result = {
        "what": "single images of concurrent callers, one RPC each or coalesced; median, spread (half the range), runs",
        "conditions": {
            **conditions,
            "load_average_after": os.getloadavg()[0],
            "images": "packed uint8 in the model's shape",
            "clients": "default settings; coalesce=False for single",
            "seconds_per_measurement": SECONDS,
            "measurements_per_way_and_run": len(ORDER) // 2,
            "lone_calls_per_run": LONE_BLOCKS * LONE_CALLS,
        },
        "onnxruntime_alone_images_per_second_by_batch": raw,
        "places": found,
    }
    path = common.write_result("coalescing", result)
    for place, model in itertools.product(found, MODELS):
        figures, best = found[place]["models"][model], max(raw[model].values())
        print(place)
        for name, rate in figures["images_per_second"].items():
            gain, fast = rate["coalesced_over_single"], rate["coalesced"]["median"]
            print(
                f"{model}, {name}: {fast:,.0f} images/s, {gain['median']:.2f} times (spread {gain['spread']:.0%});"
                f" {fast / best:.2f} of onnxruntime alone;"
                f" CPU per image: {cpu(rate['single'])} -> {cpu(rate['coalesced'])}"
            )
        for caller, times in figures["lone_caller_p50_seconds"].items():
            ratio = times["coalesced_over_single"]
            print(f"{model}, a lone {caller}'s p50: {ratio['median'] - 1:+.1%} (spread {ratio['spread']:.1%})")
    print(path, flush=True)


if __name__ == "__main__":
    main()
