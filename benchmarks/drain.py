"""Drains under load: how many accepted calls are lost, in how many of so many runs.

Eight callers in a closed loop while SIGTERM arrives. A call is lost when it was neither answered nor refused, by the
server's own word or because nobody listens any more; clients try those elsewhere. UNAVAILABLE alone does not tell: that
is also what a caller gets whose connection was cut under a call.

    python -m benchmarks.drain --runs 20
"""

from __future__ import annotations

import argparse
import collections
import json
import random
import signal
import subprocess
import sys
import threading
import time

import grpc
import numpy as np

from benchmarks import common
from convserve import manifest as manifests
from convserve.server.rpc import DRAINING
from convserve.v1 import classification_pb2 as pb
from convserve.v1 import classification_pb2_grpc as rpc


def outcome(error: grpc.RpcError) -> str:
    """What became of a call that was not answered: `refused`, or the name of its status."""
    refused = error.code() is grpc.StatusCode.UNAVAILABLE and (
        error.details() == DRAINING or (error.details() or "").startswith("failed to connect to all addresses")
    )
    return "refused" if refused else str(error.code().name)


def drain_once(workers: int, request: pb.ClassifyRequest, seed: int) -> dict[str, int]:
    """Start, load, drain. Returns outcomes of calls and the exit status."""
    serve = [sys.executable, "-m", "convserve", "serve", "--port", "0", "--http-port", "0", "--log-level", "error"]
    command = [*serve, "--model-repository", str(common.ROOT / "models"), "--workers", str(workers)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    port = json.loads(process.stdout.readline())["grpc_port"]
    outcomes: collections.Counter[str] = collections.Counter()
    lock = threading.Lock()

    def call() -> None:
        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0)]
        with grpc.insecure_channel(f"127.0.0.1:{port}", options) as channel:
            classify = rpc.ClassificationServiceStub(channel).Classify
            while True:
                try:
                    classify(request, timeout=10)
                    name = "answered"
                except grpc.RpcError as error:
                    name = outcome(error)
                with lock:
                    outcomes[name] += 1
                if name != "answered":
                    return

    callers = [threading.Thread(target=call) for _ in range(8)]
    for caller in callers:
        caller.start()
    time.sleep(random.Random(seed).uniform(0.3, 0.8))
    process.send_signal(signal.SIGTERM)
    status = process.wait(60)
    for caller in callers:
        caller.join()
    process.stdout.close()
    return {**outcomes, "exit_status": status}


def main() -> None:
    """Run and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=20, help="drains for each number of workers (default: 20)")
    args = parser.parse_args()
    manifest, _ = manifests.read(max((common.ROOT / "models/mnist").glob("[0-9]*"), key=lambda one: int(one.name)))
    images = np.zeros((1, *manifest.input.shape), np.uint8)
    request = pb.ClassifyRequest(model="mnist", packed=pb.PackedImages(data=images.tobytes(), shape=images.shape))
    before = common.conditions()
    result: dict[str, object] = {"what": "Accepted calls lost in drains under load", "conditions": before}
    for workers in (1, 2):
        runs = [drain_once(workers, request, seed) for seed in range(args.runs)]
        lost = [sum(n for name, n in run.items() if name not in ("answered", "refused", "exit_status")) for run in runs]
        clean = sum(not gone and run["exit_status"] == 0 for gone, run in zip(lost, runs, strict=True))
        result[f"workers_{workers}"] = {
            "runs": args.runs,
            "runs_without_loss": clean,
            "calls_answered": sum(run.get("answered", 0) for run in runs),
            "calls_lost": sum(lost),
        }
        print(workers, result[f"workers_{workers}"], flush=True)
    print(common.write_result("drain", result).relative_to(common.ROOT))


if __name__ == "__main__":
    main()
