"""One model under a flood, and what the callers of another one notice: p99 of the quiet model alone and beside it.

The quiet model answers one request at a time; the flooded one has 128 callers in a closed loop, more than it can serve.

    python -m benchmarks.fairness --repetitions 3
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import time

import grpc
import numpy as np

from benchmarks import common
from benchmarks.common import Peer
from convserve import manifest as manifests
from convserve.v1 import classification_pb2 as pb
from convserve.v1 import classification_pb2_grpc as rpc

FLOOD, QUIET = "mnist", "cifar10"
CALLERS = 128


def request(model: str) -> pb.ClassifyRequest:
    """One image for a bundled model."""
    directory = max((common.ROOT / "models" / model).glob("[0-9]*"), key=lambda one: int(one.name))
    shape = (1, *manifests.read(directory)[0].input.shape)
    return pb.ClassifyRequest(model=model, packed=pb.PackedImages(data=bytes(np.prod(shape)), shape=shape))


async def measure(port: int, seconds: float, *, flooded: bool) -> dict[str, float]:
    """Latencies of the quiet model, and what the flood got."""
    latencies: list[float] = []
    answered = refused = 0
    end = time.perf_counter() + seconds
    async with (
        grpc.aio.insecure_channel(f"127.0.0.1:{port}", [("grpc.use_local_subchannel_pool", 1)]) as quiet_channel,
        grpc.aio.insecure_channel(f"127.0.0.1:{port}", [("grpc.use_local_subchannel_pool", 1)]) as flood_channel,
    ):
        quiet = rpc.ClassificationServiceStub(quiet_channel).Classify
        flood = rpc.ClassificationServiceStub(flood_channel).Classify
        asked, flooding = request(QUIET), request(FLOOD)

        async def press() -> None:
            nonlocal answered, refused
            while time.perf_counter() < end:
                try:
                    await flood(flooding, timeout=5)
                    answered += 1
                except grpc.aio.AioRpcError:
                    refused += 1
                    await asyncio.sleep(0.05)

        async def ask() -> None:
            while time.perf_counter() < end:
                started = time.perf_counter()
                await quiet(asked, timeout=10)
                latencies.append(time.perf_counter() - started)
                await asyncio.sleep(0.01)

        await asyncio.gather(ask(), *(press() for _ in range(CALLERS if flooded else 0)))
    return {
        "p50_seconds": float(np.quantile(latencies, 0.5)),
        "p99_seconds": float(np.quantile(latencies, 0.99)),
        "flood_answered_per_second": answered / seconds,
        "flood_refused_per_second": refused / seconds,
    }


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=3, help="pairs of measurements (default: 3)")
    parser.add_argument("--seconds", type=float, default=8.0, help="length of one (default: 8)")
    args = parser.parse_args()
    os.sched_setaffinity(0, {common.CLIENT_CORE})
    before = common.conditions()
    serve = [sys.executable, "-m", "convserve", "serve", "--port", "0", "--http-port", "0", "--log-level", "error"]
    runs: dict[str, list[dict[str, float]]] = {"alone": [], "flooded": []}
    with common.running(Peer("convserve", [*serve, "--model-repository", str(common.ROOT / "models")])) as server:
        asyncio.run(measure(server.port, 2, flooded=True))
        for _ in range(args.repetitions):
            for kind, measured in runs.items():
                measured.append(asyncio.run(measure(server.port, args.seconds, flooded=kind == "flooded")))
                print(kind, {name: round(value, 5) for name, value in measured[-1].items()}, flush=True)
    ratios = [a["p99_seconds"] / b["p99_seconds"] for a, b in zip(runs["flooded"], runs["alone"], strict=True)]
    result = {
        "what": f"Latency of {QUIET}, one request at a time, alone and while {CALLERS} callers flood {FLOOD}",
        "conditions": before,
        "p99_ratio": common.summary(ratios),
        **{
            kind: {k: common.summary([one[k] for one in measured]) for k in measured[0]}
            for kind, measured in runs.items()
        },
    }
    print(result["p99_ratio"])
    print(common.write_result("fairness", result).relative_to(common.ROOT))


if __name__ == "__main__":
    main()
