"""The floor: a bare grpcio server around onnxruntime, without batching, checks, deadlines or metrics.

Synchronous with 16 threads, or asynchronous with `--aio`, where the model runs on a thread beside the event loop.
"""

from __future__ import annotations

import asyncio
import json
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import onnxruntime as ort

from convserve.v1 import classification_pb2 as pb


def classifier(model: Path) -> Callable[[pb.ClassifyRequest], pb.ClassifyResponse]:
    """What answers a request."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])

    def classify(request: pb.ClassifyRequest) -> pb.ClassifyResponse:
        images = np.frombuffer(request.packed.data, np.uint8).reshape(tuple(request.packed.shape))
        probabilities = session.run(["probabilities"], {"image": images})[0]
        best = probabilities.argmax(1)
        return pb.ClassifyResponse(
            results=[
                pb.ImageResult(predictions=[pb.Prediction(index=int(index), probability=float(row[index]))])
                for index, row in zip(best, probabilities, strict=True)
            ]
        )

    return classify


def service(behavior: Callable[..., Any]) -> grpc.GenericRpcHandler:
    """The one method."""
    handler = grpc.unary_unary_rpc_method_handler(
        behavior, pb.ClassifyRequest.FromString, pb.ClassifyResponse.SerializeToString
    )
    return grpc.method_handlers_generic_handler("convserve.v1.ClassificationService", {"Classify": handler})


def ready(port: int) -> None:
    """Tell where the server listens."""
    sys.stdout.write(json.dumps({"grpc_port": port}) + "\n")
    sys.stdout.flush()


def serve(model: Path) -> None:
    """Serve with threads until killed."""
    classify = classifier(model)
    server = grpc.server(ThreadPoolExecutor(16), options=[("grpc.so_reuseport", 0)])
    server.add_generic_rpc_handlers((service(lambda request, _context: classify(request)),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    ready(port)
    threading.Event().wait()


async def serve_aio(model: Path) -> None:
    """Serve with an event loop until killed."""
    classify = classifier(model)
    beside = ThreadPoolExecutor(1)

    async def behavior(request: pb.ClassifyRequest, _context: Any) -> pb.ClassifyResponse:
        return await asyncio.get_running_loop().run_in_executor(beside, classify, request)

    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    server.add_generic_rpc_handlers((service(behavior),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    ready(port)
    await server.wait_for_termination()


if __name__ == "__main__":
    if sys.argv[2:] == ["--aio"]:
        asyncio.run(serve_aio(Path(sys.argv[1])))
    else:
        serve(Path(sys.argv[1]))
