"""What batching settings do: images per second and latency against max_batch_size, max_queue_delay and load.

A closed loop with 1 to 256 single-image requests in flight, server and load generator on a core each. Settings
alternate within each repetition. `python -m scripts.reference` puts the result into docs/operations.md.

    python -m benchmarks.tuning --repetitions 3
    python -m benchmarks.tuning --repetitions 3 --device cuda      # on a machine with a GPU
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import common
from benchmarks.common import Load, Peer
from convserve import manifest as manifests
from convserve.v1 import classification_pb2 as pb

PATH = "/convserve.v1.ClassificationService/Classify"
LOADS = {1: (1, 1), 4: (4, 1), 16: (4, 4), 64: (4, 16), 256: (8, 32)}
"""Connections and streams by requests in flight."""
FEWEST_REQUESTS, MOST_REQUESTS = 100, 5_000


@dataclass(frozen=True)
class Choice:
    """One way to set batching."""

    max_batch_size: int
    max_queue_delay: float = 0.0

    @property
    def name(self) -> str:
        """How results call it."""
        return f"batch {self.max_batch_size}, delay {self.max_queue_delay * 1000:g} ms"

    def requests(self, in_flight: int, seconds: float) -> int:
        """As many as take about so long, from a guess of 0.3 ms each beside the delay."""
        wanted = int(in_flight * seconds / (self.max_queue_delay + 0.0003))
        return max(FEWEST_REQUESTS, 2 * in_flight, min(MOST_REQUESTS, wanted))


CHOICES = {
    "cpu": [Choice(1), Choice(4), Choice(16), Choice(64), Choice(64, 0.0005), Choice(64, 0.002), Choice(64, 0.005)],
    "cuda": [
        Choice(1),
        Choice(8),
        Choice(32),
        Choice(128),
        Choice(128, 0.0005),
        Choice(128, 0.002),
        Choice(128, 0.005),
    ],
}


def serve(choice: Choice, repository: Path, device: str) -> Peer:
    """The server with these settings."""
    command = [sys.executable, "-m", "convserve", "serve", "--port", "0", "--http-port", "0", "--log-level", "error"]
    command += ["--model-repository", str(repository), "--model-device", device]
    command += ["--model-max-batch-size", str(choice.max_batch_size)]
    command += ["--model-max-queue-rows", "1024"]  # or a small batch size would mean refusals, which h2load counts too
    command += ["--model-max-queue-delay", str(choice.max_queue_delay)]
    return Peer(choice.name, command)


def measure(
    choices: Sequence[Choice], repository: Path, message: bytes, device: str, repetitions: int, seconds: float
) -> dict[str, dict[str, list[dict[str, float]]]]:
    """All readings by choice and requests in flight."""
    readings: dict[str, dict[str, list[dict[str, float]]]] = {
        choice.name: {str(in_flight): [] for in_flight in LOADS} for choice in choices
    }
    for repetition in range(repetitions):
        for choice in choices:
            with common.running(serve(choice, repository, device)) as server:
                for in_flight, (connections, streams) in LOADS.items():
                    count = choice.requests(in_flight, seconds)
                    common.h2load(server.port, PATH, message, Load(connections, streams, max(in_flight, count // 5)))
                    reading = common.h2load(server.port, PATH, message, Load(connections, streams, count))
                    readings[choice.name][str(in_flight)].append(reading)
                    rate, p99 = reading["requests_per_second"], reading["p99_seconds"]
                    print(
                        f"{repetition} {choice.name:24} {in_flight:4} in flight {rate:7.0f}/s p99 {p99 * 1e3:6.2f} ms"
                    )
    return readings


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=3, help="how often everything is measured (default: 3)")
    parser.add_argument("--seconds", type=float, default=1.0, help="about how long one point takes (default: 1)")
    parser.add_argument("--model", default="mnist", help="bundled model to serve (default: mnist)")
    parser.add_argument("--device", choices=CHOICES, default="cpu", help="what computes (default: cpu)")
    args = parser.parse_args()
    common.need("h2load", "nghttp2-client")
    root = common.ROOT / "models" / args.model
    directory = max((entry for entry in root.iterdir() if entry.name.isdigit()), key=lambda entry: int(entry.name))
    manifest, digest = manifests.read(directory)
    image = np.random.default_rng(1).integers(0, 256, (1, *manifest.input.shape), dtype=np.uint8)
    packed = pb.PackedImages(data=image.tobytes(), shape=image.shape)
    message = pb.ClassifyRequest(model=args.model, packed=packed).SerializeToString()
    before = common.conditions()
    with tempfile.TemporaryDirectory() as folder:  # this model alone, so that servers are ready soon
        shutil.copytree(root, Path(folder, args.model))
        readings = measure(CHOICES[args.device], Path(folder), message, args.device, args.repetitions, args.seconds)
    result: dict[str, Any] = {
        "what": "Single-image requests in a closed loop: rate and latency by batching settings and requests in flight",
        "model": {"name": args.model, "version": manifest.version, "digest": digest},
        "device": args.device,
        "conditions": before,
        "choices": {
            name: {
                in_flight: {key: common.summary([one[key] for one in runs]) for key in runs[0]}
                for in_flight, runs in points.items()
            }
            for name, points in readings.items()
        },
    }
    name = "tuning" if args.device == "cpu" else f"tuning-{args.device}"
    print(common.write_result(name, result).relative_to(common.ROOT))


if __name__ == "__main__":
    main()
