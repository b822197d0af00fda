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
images = np.load(directory / "images.npy")
found: dict[str, Any] = {}
arrays: dict[str, Any] = {}


async def run() -> None:
    """Every method of the client."""
    client = InferenceGRPCClient(target)
    found["live"] = await client.is_server_live()
    found["ready"] = await client.is_server_ready()
    found["model_ready"] = await client.is_model_ready("mnist")
    for name, binary in (("raw", True), ("typed", False)):
        tensor = InferInput("image", list(images.shape), "UINT8")
        tensor.set_data_from_numpy(images, binary_data=binary)
        reply = await client.infer(InferRequest("mnist", [tensor]))
        arrays[name] = next(output for output in reply.outputs if output.name == "probabilities").as_numpy()
    await client.close()


asyncio.run(run())
stub = rpc.GRPCInferenceServiceStub(grpc.insecure_channel(target))
unloaded = stub.RepositoryModelUnload(pb.RepositoryModelUnloadRequest(model_name="mnist"))
loaded = stub.RepositoryModelLoad(pb.RepositoryModelLoadRequest(model_name="mnist"))
found["repository"] = [unloaded.model_name, unloaded.isUnloaded, loaded.model_name, loaded.isLoaded]
found["metadata"] = stub.ServerMetadata(pb.ServerMetadataRequest()).name
np.savez(directory / "arrays.npz", **arrays)
json.dump(found, sys.stdout)
