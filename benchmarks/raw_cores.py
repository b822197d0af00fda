"""What the machine itself allows on several cores: onnxruntime alone, one process on each, all at the same time."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks import common
from convserve import manifest as manifests
from convserve.arrays import Images
from convserve.runtimes.onnx import OnnxRuntime

SECONDS = 1.5


def together(directory: Path, rows: int, cores: Sequence[int]) -> float:
    """Images per second of onnxruntime alone, one process on each of these cores, all at the same time."""
    command = [sys.executable, "-m", "benchmarks.raw_cores", str(directory), str(rows)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(common.ROOT), os.environ.get("PYTHONPATH", "")])}
    started = [
        subprocess.Popen(
            ["taskset", "-c", str(core), *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for core in cores
    ]
    try:
        for process in started:  # all are warm before the first is told to go
            assert process.stdout is not None
            if process.stdout.readline() != "ready\n":
                raise RuntimeError("onnxruntime alone did not start")
        for process in started:
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()
        return sum(float(process.communicate(timeout=60)[0]) for process in started)
    finally:
        for process in started:
            process.kill()
            process.communicate()


def measure(directory: Path, rows: int) -> None:
    """The child of `together`: says that it is ready, waits for a line, runs batches."""
    manifest, _ = manifests.read(directory)
    runtime = OnnxRuntime(directory, manifest, intra_op_threads=1)
    runtime.most_rows = None  # every batch as one run, whatever the server does
    images: Images = np.random.default_rng(0).integers(0, 256, (rows, *manifest.input.shape), dtype=np.uint8)
    for _ in range(10):
        runtime.run(images)
    print("ready", flush=True)
    sys.stdin.readline()
    count, begun = 0, time.perf_counter()
    while time.perf_counter() - begun < SECONDS:
        runtime.run(images)
        count += rows
    print(count / (time.perf_counter() - begun))


if __name__ == "__main__":
    measure(Path(sys.argv[1]), int(sys.argv[2]))
