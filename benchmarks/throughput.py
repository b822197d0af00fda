"""Requests per second and latency on one core: this server, a bare grpcio server, and raw onnxruntime as the limit.

Server and load generator are pinned to a core each. Within one run everything alternates, several times; the ratios to
raw onnxruntime of the same repetition are what can be compared between machines. `light` has the layers of the
preset `mnist-simple`, `heavy` those of `mnist-deep`.

    python -m benchmarks.throughput --repetitions 3
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import grpc
import numpy as np
import numpy.typing as npt

from benchmarks import common, light
from benchmarks.common import Load, Peer
from convserve import manifest as manifests
from convserve.open_inference.v2 import infer_pb2
from convserve.v1 import classification_pb2 as pb
from convserve.v1 import classification_pb2_grpc as rpc

PATHS = {
    "native": "/convserve.v1.ClassificationService/Classify",
    "open_inference": "/inference.GRPCInferenceService/ModelInfer",
}
POINTS = {
    "1 in flight": (1, Load(1, 1, 2_000)),
    "4 in flight": (1, Load(4, 1, 5_000)),
    "16 in flight": (1, Load(4, 4, 8_000)),
    "64 in flight": (1, Load(4, 16, 10_000)),
    "batch 32, 4 in flight": (32, Load(4, 1, 600)),
    "batch 256, 2 in flight": (256, Load(2, 1, 60)),
}
MODELS = (light.NAME, light.HEAVY)
Row: TypeAlias = dict[str, float]
RAW_SIZES = (1, 8, 32, 64, 256)


@dataclass(frozen=True)
class Contender:
    """A server, and the dialect it is asked in."""

    peer: Peer
    dialect: str = "native"


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
    runtime.most_rows = None  # every batch as one run, whatever the server does
    rates = {}
    for size in RAW_SIZES:
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


def body(dialect: str, model: str, images: npt.NDArray[np.uint8]) -> bytes:
    """A request with these images."""
    if dialect == "native":
        packed = pb.PackedImages(data=images.tobytes(), shape=images.shape)
        return pb.ClassifyRequest(model=model, packed=packed).SerializeToString()
    tensor = infer_pb2.ModelInferRequest.InferInputTensor(name="image", datatype="UINT8", shape=images.shape)
    request = infer_pb2.ModelInferRequest(model_name=model, inputs=[tensor], raw_input_contents=[images.tobytes()])
    return request.SerializeToString()


def contenders(repository: Path, directory: Path) -> list[Contender]:
    """This server in its two dialects and without its fast lane, and the floor."""
    serve = [sys.executable, "-m", "convserve", "serve", "--port", "0", "--http-port", "0", "--log-level", "error"]
    serve += ["--model-repository", str(repository)]
    bare = [sys.executable, "-m", "benchmarks.bare_grpcio", str(directory / manifests.ONNX_FILE)]
    return [
        Contender(Peer("convserve", serve)),
        Contender(Peer("convserve, Open Inference Protocol", serve), "open_inference"),
        Contender(Peer("convserve without its fast lane", [*serve, "--fast-lane", "false"])),
        Contender(Peer("bare grpcio, threads", bare)),
        Contender(Peer("bare grpcio, aio", [*bare, "--aio"])),
    ]


def measure(contender: Contender, model: str, directory: Path, limits: Row) -> tuple[dict[str, Row], Row]:
    """Measure a server once. Returns its figures by point, and those of its process."""
    shape = manifests.read(directory)[0].input.shape
    path = PATHS[contender.dialect]
    points: dict[str, Row] = {}
    with common.running(contender.peer) as server:
        check(server.port, directory, model)
        process = {"seconds_to_ready": server.seconds_to_ready, "idle_mb": server.resident_mb()}
        for point, (size, load) in POINTS.items():
            images = np.random.default_rng(1).integers(0, 256, (size, *shape), dtype=np.uint8)
            message = body(contender.dialect, model, images)
            common.h2load(server.port, path, message, Load(load.connections, load.streams, load.requests // 5))
            used = server.cpu_seconds()
            row = common.h2load(server.port, path, message, load)
            row["server_cpu_seconds_per_request"] = (server.cpu_seconds() - used) / load.requests
            row["images_per_second"] = row["requests_per_second"] * size
            row["of_raw_one_by_one"] = row["images_per_second"] / limits["1"]
            row["of_raw_best"] = row["images_per_second"] / max(limits.values())
            points[point] = row
            print(f"  {contender.peer.name:36} {point:24} {row['requests_per_second']:8.0f}/s", flush=True)
        process["after_mb"] = server.resident_mb()
    return points, process


def compare(model: str, repository: Path, repetitions: int) -> Path:
    """Measure one model on all servers, and write the result."""
    directory = max((repository / model).glob("[0-9]*"), key=lambda entry: int(entry.name))
    manifest, digest = manifests.read(directory)
    before = common.conditions()
    chosen = contenders(repository, directory)
    runs: dict[str, list[tuple[dict[str, Row], Row]]] = {one.peer.name: [] for one in chosen}
    limits = []
    for repetition in range(repetitions):
        limits.append(raw(directory))
        print(f"{model}, repetition {repetition + 1}: raw onnxruntime {limits[-1]['1']:.0f} images/s one by one")
        for one in chosen:
            runs[one.peer.name].append(measure(one, model, directory, limits[-1]))
    result: dict[str, Any] = {
        "what": __doc__.splitlines()[0] if __doc__ else "",
        "model": {
            "name": model,
            "version": manifest.version,
            "digest": digest,
            "parameters": manifest.training.parameters,
        },
        "conditions": {**before, "load_average_after": os.getloadavg()[0]},
        "raw_onnxruntime_images_per_second": {
            size: common.summary([one[size] for one in limits]) for size in limits[0]
        },
        "servers": {
            name: {
                "process": {key: common.summary([process[key] for _, process in own]) for key in own[0][1]},
                "points": {
                    point: {key: common.summary([points[point][key] for points, _ in own]) for key in own[0][0][point]}
                    for point in POINTS
                },
            }
            for name, own in runs.items()
        },
    }
    return common.write_result(f"throughput-{model}", result)


def main() -> None:
    """Measure and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=3, help="how often everything is measured (default: 3)")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS), help="which")
    parser.add_argument("--raw", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.raw:
        measure_raw(args.raw)
        return
    common.need("h2load", "nghttp2-client")
    with tempfile.TemporaryDirectory() as folder:
        for model in args.models:
            repository = Path(folder, model)
            light.write_version(repository, model)
            print(compare(model, repository, args.repetitions).relative_to(common.ROOT))


if __name__ == "__main__":
    main()
