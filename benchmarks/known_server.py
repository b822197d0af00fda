"""A real gRPC server whose service times are known: it sleeps for times that it draws, and tells them in its replies.

It can also stand still for a while, once; or batch with the server's own queue and batcher around a model that sleeps
for `BATCH_FIXED + BATCH_EACH * n` seconds. Run by `benchmarks.loadtest_validation`.
"""

from __future__ import annotations

import argparse
import json
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import numpy as np

from convserve.arrays import Images
from convserve.batching import Batcher, BatchQueue, BatchRun, BatchTimes, Item, Outputs, QueueLimits
from convserve.v1 import classification_pb2 as pb
from convserve.v1 import classification_pb2_grpc, model_pb2, model_pb2_grpc

MEDIAN_SECONDS, SIGMA = 0.1, 0.5
"""Of the log-normal distribution that times are drawn from."""
THREADS = 600
BATCH_FIXED, BATCH_EACH, BATCH_MOST = 0.04, 0.002, 16
"""A batch of n takes so many seconds; at most so many images."""


class KnownServer(classification_pb2_grpc.ClassificationServiceServicer, model_pb2_grpc.ModelServiceServicer):
    """Answers every image with class 1."""

    def __init__(self, sleep: bool, batched: bool, stall_at: float, stall_seconds: float) -> None:
        """Stand still `stall_at` seconds after the first request under load, for `stall_seconds`."""
        self._batcher = make_batcher() if batched else None
        self._sleep = sleep
        self._random = np.random.default_rng(7)
        self._lock = threading.Lock()
        self._stall_at, self._stall_seconds = stall_at, stall_seconds
        self._first = 0.0

    def Classify(self, request: pb.ClassifyRequest, context: Any) -> pb.ClassifyResponse:  # noqa: ARG002, N802
        """Take as long as was drawn, or as the batch takes."""
        if self._batcher is not None:
            return classify_batched(self._batcher, request)
        begun = time.monotonic()
        with self._lock:
            self._first = self._first or begun
            drawn = MEDIAN_SECONDS * float(np.exp(SIGMA * self._random.normal())) if self._sleep else 0.0
        end = begun + drawn
        stalls = self._first + self._stall_at
        if stalls <= begun < stalls + self._stall_seconds:
            end = stalls + self._stall_seconds
        time.sleep(max(end - time.monotonic(), 0.0))
        reply = pb.ClassifyResponse(model=request.model, model_version=1)
        reply.results.add().predictions.add(index=1, probability=0.5)
        reply.batches.add(request_rows=1, rows=1, run_seconds=drawn)
        return reply

    def GetModel(self, request: model_pb2.GetModelRequest, context: Any) -> model_pb2.GetModelResponse:  # noqa: ARG002, N802
        """Describe a model of one-pixel images."""
        version = model_pb2.ModelVersion(version=1, input_shape=[1, 1, 1], labels=["no", "yes"])
        return model_pb2.GetModelResponse(model=model_pb2.Model(name=request.name, versions=[version]))


class Silent:
    """Counts nothing."""

    def batch_ran(self, run: BatchRun) -> None:
        """Nothing."""

    def items_dropped(self, reason: str, items: int) -> None:
        """Nothing."""

    def batch_failed(self, error: BaseException) -> None:
        """Nothing."""


def make_batcher() -> Batcher:
    """The server's own, around a model that sleeps."""

    def execute(images: Images) -> Outputs:
        time.sleep(BATCH_FIXED + BATCH_EACH * len(images))
        zeros = np.zeros((len(images), 2), np.float32)
        return Outputs(zeros, zeros)

    limits = QueueLimits(max_batch_size=BATCH_MOST, max_queue_rows=10**6)
    batcher = Batcher(BatchQueue(limits), execute, times=BatchTimes({1: BATCH_FIXED}), observer=Silent())
    batcher.start()
    return batcher


def classify_batched(batcher: Batcher, request: pb.ClassifyRequest) -> pb.ClassifyResponse:
    """Wait for the batches of a request."""
    done = threading.Event()
    found: list[BatchRun] = []

    def finish(outcome: Outputs | BaseException, runs: list[BatchRun]) -> None:  # noqa: ARG001
        found.extend(runs)
        done.set()

    rows = request.packed.shape[0]
    batcher.submit(Item(np.zeros((rows, 1, 1, 1), np.uint8), finish))
    done.wait()
    reply = pb.ClassifyResponse(model=request.model, model_version=1)
    for _ in range(rows):
        reply.results.add().predictions.add(index=1, probability=0.5)
    for run in found:
        reply.batches.add(
            request_rows=run.item_rows, rows=run.rows, queue_seconds=run.queue_seconds, run_seconds=run.run_seconds
        )
    return reply


def main() -> None:
    """Serve until killed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--sleep", action="store_true")
    parser.add_argument("--batched", action="store_true")
    parser.add_argument("--stall-at", type=float, default=float("inf"))
    parser.add_argument("--stall-seconds", type=float, default=0.0)
    args = parser.parse_args()
    server = grpc.server(ThreadPoolExecutor(THREADS), options=[("grpc.so_reuseport", 0)])
    known = KnownServer(args.sleep, args.batched, args.stall_at, args.stall_seconds)  # type: ignore[abstract]  # the rest: UNIMPLEMENTED
    classification_pb2_grpc.add_ClassificationServiceServicer_to_server(known, server)
    model_pb2_grpc.add_ModelServiceServicer_to_server(known, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    sys.stdout.write(json.dumps({"grpc_port": port}) + "\n")
    sys.stdout.flush()
    threading.Event().wait()


if __name__ == "__main__":
    main()
