"""Calls the server with KServe's client. Runs in an environment of its own: `kserve.py TARGET DIRECTORY`."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

# This script is not the package of the same name.
sys.path = [path for path in sys.path if not path.endswith("clients")]

import grpc
import numpy as np
from kserve import InferenceGRPCClient, InferInput, InferRequest
from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb
from kserve.protocol.grpc import grpc_predict_v2_pb2_grpc as rpc

target, directory = sys.argv[1], Path(sys.argv[2])
found: dict[str, Any] = {}
arrays: dict[str, Any] = {}


async def run() -> None:
    """Every method of the client."""
    client = InferenceGRPCClient(target)
    found["live"] = await client.is_server_live()
    found["ready"] = await client.is_server_ready()
    found["model_ready"] = await client.is_model_ready("mnist")
    for model in ("mnist", "cifar10"):
        pixels = np.load(directory / model / "images.npy")
        files = np.array([file.read_bytes() for file in sorted((directory / model).glob("*.png"))], dtype=np.object_)
        for name, values, datatype, binary in (
            ("uint8 raw", pixels, "UINT8", True),
            ("uint8 typed", pixels, "UINT8", False),
            ("fp32 raw", pixels.astype(np.float32), "FP32", True),
            ("fp32 typed", pixels.astype(np.float32), "FP32", False),
            ("bytes raw", files, "BYTES", True),  # the client refuses typed ones that are not UTF-8
        ):
            tensor = InferInput("image", list(values.shape), datatype)
            tensor.set_data_from_numpy(values, binary_data=binary)
            reply = await client.infer(InferRequest(model, [tensor]))
            output = next(output for output in reply.outputs if output.name == "probabilities")
            arrays[f"{model} {name}"] = output.as_numpy()
    await client.close()


asyncio.run(run())
stub = rpc.GRPCInferenceServiceStub(grpc.insecure_channel(target))
unloaded = stub.RepositoryModelUnload(pb.RepositoryModelUnloadRequest(model_name="mnist"))
loaded = stub.RepositoryModelLoad(pb.RepositoryModelLoadRequest(model_name="mnist"))
found["repository"] = [unloaded.model_name, unloaded.isUnloaded, loaded.model_name, loaded.isLoaded]
found["metadata"] = stub.ServerMetadata(pb.ServerMetadataRequest()).name
np.savez(directory / "arrays.npz", **arrays)
json.dump(found, sys.stdout)
