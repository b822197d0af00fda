"""The floor: a bare grpcio synchronous server around onnxruntime, without batching, checks, deadlines or metrics."""

from __future__ import annotations

import json
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import numpy as np
import onnxruntime as ort

from convserve.v1 import classification_pb2 as pb


def main(model: Path) -> None:
    """Serve one ONNX file until killed."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])

    def classify(request: pb.ClassifyRequest, _context: grpc.ServicerContext) -> pb.ClassifyResponse:
        images = np.frombuffer(request.packed.data, np.uint8).reshape(tuple(request.packed.shape))
        probabilities = session.run(["probabilities"], {"image": images})[0]
        best = probabilities.argmax(1)
        return pb.ClassifyResponse(
            results=[
                pb.ImageResult(predictions=[pb.Prediction(index=int(index), probability=float(row[index]))])
                for index, row in zip(best, probabilities, strict=True)
            ]
        )

    handler = grpc.unary_unary_rpc_method_handler(
        classify, pb.ClassifyRequest.FromString, pb.ClassifyResponse.SerializeToString
    )
    server = grpc.server(ThreadPoolExecutor(16), options=[("grpc.so_reuseport", 0)])
    service = "convserve.v1.ClassificationService"
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {"Classify": handler}),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    sys.stdout.write(json.dumps({"grpc_port": port}) + "\n")
    sys.stdout.flush()
    threading.Event().wait()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
