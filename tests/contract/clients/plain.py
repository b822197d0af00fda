"""Calls the server with what gRPC itself offers, knowing no definition of ours: `plain.py TARGET DIRECTORY`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from google.protobuf import descriptor_pool, message_factory
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

target, directory = sys.argv[1], Path(sys.argv[2])
found: dict[str, Any] = {}
arrays: dict[str, Any] = {}
channel = grpc.insecure_channel(target)

# Health
health = health_pb2_grpc.HealthStub(channel)
names = ["", "liveness", "readiness", "mnist", "inference.GRPCInferenceService"]
found["health"] = {name: health.Check(health_pb2.HealthCheckRequest(service=name)).status for name in names}
watch = health.Watch(health_pb2.HealthCheckRequest(service="mnist"))
found["watched"] = next(watch).status
watch.cancel()
try:
    health.Check(health_pb2.HealthCheckRequest(service="other"))
except grpc.RpcError as error:
    found["unknown"] = error.code().name

# Reflection
database = ProtoReflectionDescriptorDatabase(channel)
pool = descriptor_pool.DescriptorPool(database)
found["services"] = {
    name: sorted(method.name for method in pool.FindServiceByName(name).methods) for name in database.get_services()
}


def call(service: str, method: str, fill: Any) -> Any:
    """A call with messages that reflection told of."""
    descriptor = pool.FindServiceByName(service).FindMethodByName(method)
    request = message_factory.GetMessageClass(descriptor.input_type)()
    reply = message_factory.GetMessageClass(descriptor.output_type)
    fill(request)
    invoke = channel.unary_unary(f"/{service}/{method}")
    return reply.FromString(invoke(request.SerializeToString(), timeout=30))


images = np.load(directory / "mnist/images.npy")


def fill_infer(request: Any) -> None:
    """The images, raw."""
    request.model_name = "mnist"
    request.inputs.add(name="image", datatype="UINT8", shape=images.shape)
    request.raw_input_contents.append(images.tobytes())
    request.outputs.add(name="probabilities")


def fill_predict(request: Any) -> None:
    """The same for TensorFlow Serving."""
    request.model_spec.name = "mnist"
    tensor = request.inputs["image"]
    tensor.dtype = 4
    for size in images.shape:
        tensor.tensor_shape.dim.add(size=size)
    tensor.tensor_content = images.tobytes()


reply = call("inference.GRPCInferenceService", "ModelInfer", fill_infer)
arrays["inference"] = np.frombuffer(reply.raw_output_contents[0], "<f4").reshape(-1, 10)
reply = call("tensorflow.serving.PredictionService", "Predict", fill_predict)
arrays["tensorflow"] = np.array(reply.outputs["probabilities"].float_val).reshape(-1, 10)
found["ours"] = [name for name in sys.modules if name.partition(".")[0] == "convserve"]
np.savez(directory / "arrays.npz", **arrays)
json.dump(found, sys.stdout)
