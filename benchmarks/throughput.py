"""Requests per second and latency on one core: this server, a bare grpcio server, and raw onnxruntime as the limit.

Server and load generator are pinned to a core each. Within one run everything alternates, several times; the ratios to
raw onnxruntime of the same repetition are what can be compared between machines.

    python -m benchmarks.throughput --repetitions 3
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import grpc
import numpy as np

from benchmarks import common
from benchmarks.common import Load, Peer
from convserve import manifest as manifests
from convserve.v1 import classification_pb2 as pb
from convserve.v1 import classification_pb2_grpc as rpc

PATH = "/convserve.v1.ClassificationService/Classify"
POINTS = {
    "1 in flight": (1, Load(1, 1, 2_000)),
    "4 in flight": (1, Load(4, 1, 6_000)),
    "16 in flight": (1, Load(4, 4, 10_000)),
    "64 in flight": (1, Load(4, 16, 12_000)),
    "batch 32, 4 in flight": (32, Load(4, 1, 1_000)),
}


def raw(directory: Path) -> dict[str, float]:
    """Images per second of onnxruntime alone in a process on the server's core, by batch size."""
    command = ["taskset", "-c", str(common.SERVER_CORE), sys.executable, __file__, "--raw", str(directory)]
    environment = {**os.environ, "PYTHONPATH": str(common.ROOT)}
    ended = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300, env=environment)
    return {str(size): rate for size, rate in json.loads(ended.stdout).items()}


def measure_raw(directory: Path) -> None:
    """The child of `raw`."""
    import time

    from convserve.runtimes.onnx import OnnxRuntime

    manifest, _ = manifests.read(directory)
    runtime = OnnxRuntime(directory, manifest, intra_op_threads=1)
    rates = {}
    for size in (1, 8, 32, 64):
        images = np.random.default_rng(0).integers(0, 256, (size, *manifest.input.shape), dtype=np.uint8)
        for _ in range(10):
            runtime.run(images)
        count, started = 0, time.perf_counter()
        while time.perf_counter() - started < 1.0:
            runtime.run(images)
            count += size
        rates[size] = count / (time.perf_counter() - started)
    sys.stdout.write(json.dumps(rates))


def check(port: int, directory: Path, model: str) -> None:
    """Compare an answer with the golden one before anything is timed."""
    with np.load(directory / manifests.GOLDEN_FILE) as arrays, grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        images, expected = arrays["image"][:8], arrays["probabilities"][:8]
        request = pb.ClassifyRequest(model=model, packed=pb.PackedImages(data=images.tobytes(), shape=images.shape))
        response = rpc.ClassificationServiceStub(channel).Classify(request)
    got = [(one.predictions[0].index, one.predictions[0].probability) for one in response.results]
    assert [index for index, _ in got] == expected.argmax(1).tolist()
    assert np.allclose([value for _, value in got], expected.max(1), atol=1e-5)


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=3, help="how often everything is measured (default: 3)")
    parser.add_argument("--model", default="mnist", help="bundled model to serve (default: mnist)")
    parser.add_argument("--raw", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.raw:
        measure_raw(args.raw)
        return
    common.need("h2load", "nghttp2-client")
    root = common.ROOT / "models" / args.model
    directory = max((entry for entry in root.iterdir() if entry.name.isdigit()), key=lambda entry: int(entry.name))
    manifest, digest = manifests.read(directory)
    serve = [sys.executable, "-m", "convserve", "serve", "--port", "0", "--http-port", "0"]
    peers = [
        Peer("convserve", [*serve, "--model-repository", str(root.parent), "--log-level", "error"]),
        Peer("bare grpcio", [sys.executable, "-m", "benchmarks.bare_grpcio", str(directory / manifests.ONNX_FILE)]),
    ]
    before = common.conditions()
    rows: dict[str, dict[str, list[dict[str, float]]]] = {peer.name: {point: [] for point in POINTS} for peer in peers}
    processes: dict[str, list[dict[str, float]]] = {peer.name: [] for peer in peers}
    limits = []
    for repetition in range(args.repetitions):
        limits.append(raw(directory))
        for peer in peers:
            with common.running(peer) as server:
                check(server.port, directory, args.model)
                idle = server.resident_mb()
                for point, (size, load) in POINTS.items():
                    images = np.random.default_rng(1).integers(0, 256, (size, *manifest.input.shape), dtype=np.uint8)
                    packed = pb.PackedImages(data=images.tobytes(), shape=images.shape)
                    message = pb.ClassifyRequest(model=args.model, packed=packed).SerializeToString()
                    common.h2load(server.port, PATH, message, Load(load.connections, load.streams, load.requests // 5))
                    used = server.cpu_seconds()
                    measured = common.h2load(server.port, PATH, message, load)
                    measured["server_cpu_seconds_per_request"] = (server.cpu_seconds() - used) / load.requests
                    measured["of_raw"] = measured["requests_per_second"] * size / limits[-1][str(size)]
                    rows[peer.name][point].append(measured)
                    print(
                        f"{repetition} {peer.name:12} {point:22} {measured['requests_per_second']:8.0f}/s", flush=True
                    )
                processes[peer.name].append(
                    {"seconds_to_ready": server.seconds_to_ready, "idle_mb": idle, "after_mb": server.resident_mb()}
                )
    result: dict[str, Any] = {
        "what": __doc__.splitlines()[0] if __doc__ else "",
        "model": {
            "name": args.model,
            "version": manifest.version,
            "digest": digest,
            "parameters": manifest.training.parameters,
        },
        "conditions": before,
        "raw_onnxruntime_images_per_second": {
            size: common.summary([one[size] for one in limits]) for size in limits[0]
        },
        "servers": {
            name: {
                "process": {key: common.summary([one[key] for one in processes[name]]) for key in processes[name][0]},
                "points": {
                    point: {key: common.summary([one[key] for one in runs]) for key in runs[0]}
                    for point, runs in points.items()
                },
            }
            for name, points in rows.items()
        },
    }
    print(common.write_result(f"throughput-{args.model}", result).relative_to(common.ROOT))


if __name__ == "__main__":
    main()
