"""Single images of many callers: one RPC each, or together; and what coalescing costs a caller who is alone.

One server process on one core, one client process on the other, as in the other benchmarks. Both ways of calling
alternate within one run, with clients of the same settings but for `coalesce`.

    python -m benchmarks.coalescing --model mnist --callers 64 --runs 5
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from benchmarks import common
from convserve import AsyncClient, Client
from convserve.arrays import Images

SECONDS = 3.0
"""How long each measurement of throughput takes."""
LONE_BLOCKS, LONE_CALLS = 20, 100
"""A lone caller alternates after so many calls, so many times: slow drifts of the machine hit both ways alike."""
WAYS = ("single", "coalesced")


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


def measure(target: str, model: str, callers: Sequence[int], runs: int) -> dict[str, Any]:
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
            for way, seconds in lone(clients, images, model).items():
                alone[way].append(seconds)
            for name, count, one in loads:
                for way in WAYS if run % 2 else tuple(reversed(WAYS)):
                    rates[name][way].append(one(way, count))
                latest = {way: round(found[-1]) for way, found in rates[name].items()}
                print(f"run {run + 1}: {name}: {latest} images/s", file=sys.stderr, flush=True)
        return {
            "images_per_second": {name: compare(found) for name, found in rates.items()},
            "lone_caller_p50_seconds": compare(alone),
        }


def main() -> None:
    """Measure and keep the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="mnist", help="a bundled model (default: mnist)")
    parser.add_argument("--callers", type=int, nargs="+", default=[4, 16, 64], help="threads (default: 4 16 64)")
    parser.add_argument("--runs", type=int, default=5, help="repetitions of everything (default: 5)")
    arguments = parser.parse_args()
    conditions = common.conditions()
    serve = [sys.executable, "-m", "convserve", "serve", "--model-repository", str(common.ROOT / "models")]
    peer = common.Peer("convserve", [*serve, "--port", "0", "--http-port", "0", "--log-level", "error"])
    with common.running(peer) as server:
        os.sched_setaffinity(0, {common.CLIENT_CORE})
        found = measure(f"127.0.0.1:{server.port}", arguments.model, arguments.callers, arguments.runs)
    result = {
        "what": "single images of concurrent callers, one RPC each or coalesced; median, spread (half the range), runs",
        "conditions": {
            **conditions,
            "load_average_after": os.getloadavg()[0],
            "model": arguments.model,
            "images": "packed uint8 in the model's shape",
            "seconds_per_measurement": SECONDS,
            "lone_calls_per_run": LONE_BLOCKS * LONE_CALLS,
        },
        **found,
    }
    path = common.write_result("coalescing", result)
    most = found["images_per_second"][f"{max(arguments.callers)} threads"]["coalesced_over_single"]
    lone_ratio = found["lone_caller_p50_seconds"]["coalesced_over_single"]["median"]
    print(f"{max(arguments.callers)} callers: {most['median']:.2f} times the throughput (spread {most['spread']:.0%})")
    print(f"a lone caller's p50: {lone_ratio - 1:+.1%}")
    print(path)


if __name__ == "__main__":
    main()
