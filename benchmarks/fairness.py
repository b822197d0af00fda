"""One model under a flood, and what the callers of another one notice: p99 of the quiet model alone and beside it.

The quiet model answers one request at a time; the flooded one has 128 callers in a closed loop, more than it can serve.

    python -m benchmarks.fairness --repetitions 3
"""

from __future__ import annotations

import argparse
import asyncio
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

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


async def ask(port: int, seconds: float) -> list[float]:
    """Latencies of the quiet model, one request at a time."""
    latencies: list[float] = []
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        classify = rpc.ClassificationServiceStub(channel).Classify
        asked = request(QUIET)
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            started = time.perf_counter()
            await classify(asked, timeout=10)
            latencies.append(time.perf_counter() - started)
            await asyncio.sleep(0.01)
    return latencies


@contextmanager
def flood(port: int) -> Iterator[None]:
    """128 requests for the other model in flight, by h2load: a flood in Python would slow the asking process down."""
    message = request(FLOOD).SerializeToString()
    with tempfile.NamedTemporaryFile() as body:
        body.write(b"\0" + len(message).to_bytes(4, "big") + message)
        body.flush()
        command = ["h2load", "-n", "10000000", "-c", "4", "-m", str(CALLERS // 4), "-d", body.name]
        command += ["-H", "content-type: application/grpc", "-H", "te: trailers"]
        command += [f"http://127.0.0.1:{port}/convserve.v1.ClassificationService/Classify"]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        try:
            time.sleep(1)
            yield
        finally:
            process.kill()
            process.wait()


def measure(port: int, seconds: float, *, flooded: bool) -> dict[str, float]:
    """Latency of the quiet model."""
    with flood(port) if flooded else nullcontext():
        latencies = asyncio.run(ask(port, seconds))
    return {
        "p50_seconds": float(np.quantile(latencies, 0.5)),
        "p99_seconds": float(np.quantile(latencies, 0.99)),
        "requests": len(latencies),
    }


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=3, help="pairs of measurements (default: 3)")
    parser.add_argument("--seconds", type=float, default=8.0, help="length of one (default: 8)")
    args = parser.parse_args()
    common.need("h2load", "nghttp2-client")
    os.sched_setaffinity(0, {common.CLIENT_CORE})
    before = common.conditions()
    serve = [sys.executable, "-m", "convserve", "serve", "--port", "0", "--http-port", "0", "--log-level", "error"]
    runs: dict[str, list[dict[str, float]]] = {"alone": [], "flooded": []}
    with common.running(Peer("convserve", [*serve, "--model-repository", str(common.ROOT / "models")])) as server:
        measure(server.port, 2, flooded=True)
        for _ in range(args.repetitions):
            for kind, measured in runs.items():
                measured.append(measure(server.port, args.seconds, flooded=kind == "flooded"))
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
