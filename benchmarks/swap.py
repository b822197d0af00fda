"""Latency while versions are swapped under load: p99 with swaps against p99 without, alternating.

A steady open loop (about half of what the server can do) while, in every other measurement, a new version of the model
is published again and again, so that loading, proving and unloading never pause for long.

    python -m benchmarks.swap --repetitions 5
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import sys
import tempfile
import threading
import time
from pathlib import Path

import grpc
import numpy as np

from benchmarks import common
from benchmarks.common import Peer
from benchmarks.soak import next_version
from convserve import manifest as manifests
from convserve.v1 import classification_pb2 as pb
from convserve.v1 import classification_pb2_grpc as rpc

PAUSE_SECONDS = 2.0
"""Time between two swaps."""


async def steady(port: int, request: pb.ClassifyRequest, rate: float, seconds: float) -> list[float]:
    """Latencies, from the intended start, of an open loop at a constant rate."""
    latencies: list[float] = []
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        classify = rpc.ClassificationServiceStub(channel).Classify

        async def call(intended: float) -> None:
            await classify(request, timeout=10)
            latencies.append(time.perf_counter() - intended)

        start = time.perf_counter()
        tasks = []
        for index in range(int(rate * seconds)):
            at = start + index / rate
            await asyncio.sleep(max(at - time.perf_counter(), 0))
            tasks.append(asyncio.create_task(call(at)))
        await asyncio.gather(*tasks)
    return latencies


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=5, help="pairs of measurements (default: 5)")
    parser.add_argument("--seconds", type=float, default=10.0, help="length of one (default: 10)")
    parser.add_argument("--rate", type=float, default=400.0, help="requests per second (default: 400)")
    args = parser.parse_args()
    os.sched_setaffinity(0, {common.CLIENT_CORE})
    before = common.conditions()
    quantiles: dict[str, dict[str, list[float]]] = {
        kind: {"p50": [], "p99": [], "max": []} for kind in ("still", "swaps")
    }
    swaps = 0
    with tempfile.TemporaryDirectory() as folder:
        repository = Path(folder, "models")
        source = max((common.ROOT / "models/mnist").glob("[0-9]*"), key=lambda one: int(one.name))
        shutil.copytree(source, repository / "mnist" / source.name)
        number = int(source.name)
        manifest, digest = manifests.read(source)
        images = np.zeros((1, *manifest.input.shape), np.uint8)
        request = pb.ClassifyRequest(model="mnist", packed=pb.PackedImages(data=images.tobytes(), shape=images.shape))
        serve = [sys.executable, "-m", "convserve", "serve", "--port", "0", "--http-port", "0", "--log-level", "error"]
        flags = ["--model-repository", str(repository), "--repository-poll-interval", "0.2"]
        with common.running(Peer("convserve", [*serve, *flags])) as server:
            asyncio.run(steady(server.port, request, args.rate, 3))
            for repetition in range(args.repetitions):
                for kind in quantiles:
                    stop = threading.Event()

                    def swap(stop: threading.Event = stop) -> None:
                        nonlocal number, swaps
                        while not stop.wait(PAUSE_SECONDS):
                            number += 1
                            swaps += 1
                            next_version(repository / "mnist", number)

                    swapper = threading.Thread(target=swap if kind == "swaps" else stop.wait)
                    swapper.start()
                    latencies = asyncio.run(steady(server.port, request, args.rate, args.seconds))
                    stop.set()
                    swapper.join()
                    for name, share in (("p50", 0.5), ("p99", 0.99), ("max", 1.0)):
                        quantiles[kind][name].append(float(np.quantile(latencies, share)))
                    print(
                        repetition,
                        kind,
                        {n: round(v[-1] * 1e3, 2) for n, v in quantiles[kind].items()},
                        "ms",
                        flush=True,
                    )
    result = {
        "what": "Latency with and without versions being swapped under load, seconds",
        "model": {"name": "mnist", "digest": digest, "version_bytes": sum(p.stat().st_size for p in source.rglob("*"))},
        "conditions": before,
        "requests_per_second": args.rate,
        "swaps": swaps,
        "latency": {kind: {n: common.summary(v) for n, v in values.items()} for kind, values in quantiles.items()},
        "p99_ratio": common.summary(
            [a / b for a, b in zip(quantiles["swaps"]["p99"], quantiles["still"]["p99"], strict=True)]
        ),
    }
    print(result["p99_ratio"])
    print(common.write_result("swap", result).relative_to(common.ROOT))


if __name__ == "__main__":
    main()
