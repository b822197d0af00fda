"""Goodput under overload: answers that came within their deadline, against the load that was offered.

An open loop (Poisson arrivals that do not wait for answers) offers a multiple of what the server can do. Beside this
server runs a bare grpcio server with an unbounded queue, which goes on computing what nobody waits for any more.

    python -m benchmarks.overload --repetitions 3
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import os
import random
import sys
import time
from typing import Any

import grpc
import numpy as np

from benchmarks import common
from benchmarks.common import Peer
from convserve import manifest as manifests
from convserve.v1 import classification_pb2 as pb
from convserve.v1 import classification_pb2_grpc as rpc

IMAGES = 16
"""Images of a request; several, so that the load generator is never the bottleneck."""
DEADLINE_SECONDS = 0.1
FACTORS = (0.5, 0.8, 1.0, 1.5, 2.0, 3.0)


async def saturate(port: int, request: pb.ClassifyRequest, seconds: float) -> float:
    """Requests per second of a closed loop with 16 in flight."""
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        classify = rpc.ClassificationServiceStub(channel).Classify
        answered = 0
        end = time.perf_counter() + seconds

        async def call() -> None:
            nonlocal answered
            while time.perf_counter() < end:
                await classify(request)
                answered += 1

        await asyncio.gather(*(call() for _ in range(16)))
    return answered / seconds


async def offer(port: int, request: pb.ClassifyRequest, rate: float, seconds: float, seed: int) -> dict[str, float]:
    """Offer `rate` requests per second, each with a deadline. Returns rates of outcomes."""
    rng = random.Random(seed)
    outcomes: collections.Counter[str] = collections.Counter()
    latencies: list[float] = []
    lag = 0.0
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        classify = rpc.ClassificationServiceStub(channel).Classify

        async def call(intended: float) -> None:
            try:
                await classify(request, timeout=DEADLINE_SECONDS)
            except grpc.aio.AioRpcError as error:
                outcomes[error.code().name] += 1
                return
            latency = time.perf_counter() - intended
            latencies.append(latency)
            outcomes["good" if latency <= DEADLINE_SECONDS else "late"] += 1

        tasks = []
        at = start = time.perf_counter()
        while at < start + seconds:
            at += rng.expovariate(rate)
            await asyncio.sleep(max(at - time.perf_counter(), 0))
            lag = max(lag, time.perf_counter() - at)
            tasks.append(asyncio.create_task(call(at)))
        await asyncio.gather(*tasks)
        elapsed = time.perf_counter() - start
    p99 = float(np.quantile(latencies, 0.99)) if latencies else float("nan")
    rates = {name: count / elapsed for name, count in outcomes.items()}
    return {"offered": len(tasks) / elapsed, "good": 0.0, **rates, "p99_seconds": p99, "client_lag_seconds": lag}


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=3, help="how often everything is measured (default: 3)")
    parser.add_argument("--seconds", type=float, default=5.0, help="length of one measurement (default: 5)")
    args = parser.parse_args()
    os.sched_setaffinity(0, {common.CLIENT_CORE})
    root = common.ROOT / "models/mnist"
    directory = max((entry for entry in root.iterdir() if entry.name.isdigit()), key=lambda entry: int(entry.name))
    manifest, digest = manifests.read(directory)
    images = np.random.default_rng(0).integers(0, 256, (IMAGES, *manifest.input.shape), dtype=np.uint8)
    packed = pb.PackedImages(data=images.tobytes(), shape=images.shape)
    request = pb.ClassifyRequest(model="mnist", packed=packed)
    serve = [sys.executable, "-m", "convserve", "serve", "--port", "0", "--http-port", "0", "--log-level", "error"]
    peers = [
        Peer("convserve", [*serve, "--model-repository", str(root.parent)]),
        Peer("unbounded queue", [sys.executable, "-m", "benchmarks.bare_grpcio", str(directory / manifests.ONNX_FILE)]),
    ]
    before = common.conditions()
    rows: dict[str, dict[float, list[dict[str, float]]]] = {one.name: {f: [] for f in FACTORS} for one in peers}
    for repetition in range(args.repetitions):
        for peer in peers:
            with common.running(peer) as server:
                capacity = asyncio.run(saturate(server.port, request, args.seconds))
            for factor in FACTORS:
                with common.running(peer) as server:  # a fresh one: the other's queue would be measured too
                    asyncio.run(saturate(server.port, request, 1.0))
                    measured = asyncio.run(
                        offer(
                            server.port, request, capacity * factor, args.seconds, repetition * 100 + int(factor * 10)
                        )
                    )
                measured["capacity"] = capacity
                rows[peer.name][factor].append(measured)
                share = measured["good"] / capacity
                print(f"{repetition} {peer.name:16} {factor:3.1f}x  good {share:5.2f} of capacity", flush=True)
    servers: dict[str, Any] = {}
    for name, points in rows.items():
        goodput = {
            str(factor): common.summary([run["good"] / run["capacity"] for run in runs])
            for factor, runs in points.items()
        }
        best = max(one["median"] for one in goodput.values())
        servers[name] = {
            "goodput_of_capacity": goodput,
            "goodput_at_2x_of_best": goodput["2.0"]["median"] / best,
            "p99_seconds": {str(f): common.summary([run["p99_seconds"] for run in runs]) for f, runs in points.items()},
            "outcomes_at_2x": points[2.0],
        }
    result = {
        "what": "Answers within their deadline, as a share of what the server answers when saturated",
        "model": {"name": "mnist", "version": manifest.version, "digest": digest},
        "images_per_request": IMAGES,
        "deadline_seconds": DEADLINE_SECONDS,
        "conditions": before,
        "servers": servers,
    }
    print(common.write_result("overload", result).relative_to(common.ROOT))


if __name__ == "__main__":
    main()
