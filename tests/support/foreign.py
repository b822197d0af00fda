"""Calls to the foreign dialects with our own messages; the real clients are in tests/contract."""

from __future__ import annotations

from typing import Any

import grpc
import numpy as np
import numpy.typing as npt

from convserve.open_inference.v2 import infer_pb2, management_pb2

OIP = "inference.GRPCInferenceService"
DATATYPES = {
    "uint8": "UINT8", "uint16": "UINT16", "uint32": "UINT32", "uint64": "UINT64",
    "int8": "INT8", "int16": "INT16", "int32": "INT32", "int64": "INT64",
    "float16": "FP16", "float32": "FP32", "float64": "FP64",
}  # fmt: skip
CONTENTS = {
    "UINT8": "uint_contents", "UINT16": "uint_contents", "UINT32": "uint_contents", "UINT64": "uint64_contents",
    "INT8": "int_contents", "INT16": "int_contents", "INT32": "int_contents", "INT64": "int64_contents",
    "FP32": "fp32_contents", "FP64": "fp64_contents",
}  # fmt: skip


def call(channel: grpc.Channel, path: str, request: Any, response: Any, **options: Any) -> Any:
    """One unary call by path, such as `inference.GRPCInferenceService/ModelInfer`."""
    data = request if isinstance(request, bytes) else request.SerializeToString()
    method: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(f"/{path}")
    reply = method(data, **options)
    return response.FromString(reply)


def oip(channel: grpc.Channel, method: str, **fields: Any) -> Any:
    """A method of the Open Inference Protocol about the server or its models."""
    request, response = (getattr(management_pb2, method + kind) for kind in ("Request", "Response"))
    return call(channel, f"{OIP}/{method}", request(**fields), response)


def infer_request(images: npt.NDArray[Any], model: str = "stripes", **fields: Any) -> infer_pb2.ModelInferRequest:
    """Images in any type of number, raw."""
    request = infer_pb2.ModelInferRequest(model_name=model, raw_input_contents=[images.tobytes()], **fields)
    request.inputs.add(name="image", datatype=DATATYPES[images.dtype.name], shape=images.shape)
    return request


def typed_request(images: npt.NDArray[Any], model: str = "stripes", **fields: Any) -> infer_pb2.ModelInferRequest:
    """Images in any type of number, in typed fields."""
    request = infer_pb2.ModelInferRequest(model_name=model, **fields)
    tensor = request.inputs.add(name="image", datatype=DATATYPES[images.dtype.name], shape=images.shape)
    getattr(tensor.contents, CONTENTS[tensor.datatype]).extend(images.ravel().tolist())
    return request


def bytes_request(files: list[bytes], model: str = "stripes", *, raw: bool = True, column: bool = False) -> Any:
    """Image files."""
    request = infer_pb2.ModelInferRequest(model_name=model)
    tensor = request.inputs.add(name="image", datatype="BYTES", shape=[len(files), 1] if column else [len(files)])
    if raw:
        request.raw_input_contents.append(b"".join(len(file).to_bytes(4, "little") + file for file in files))
    else:
        tensor.contents.bytes_contents.extend(files)
    return request


def infer(channel: grpc.Channel, request: Any, **options: Any) -> infer_pb2.ModelInferResponse:
    """ModelInfer."""
    reply: infer_pb2.ModelInferResponse = call(
        channel, f"{OIP}/ModelInfer", request, infer_pb2.ModelInferResponse, **options
    )
    return reply


def output(reply: infer_pb2.ModelInferResponse, name: str = "probabilities") -> npt.NDArray[np.float32]:
    """An output of numbers."""
    index = [tensor.name for tensor in reply.outputs].index(name)
    return np.frombuffer(reply.raw_output_contents[index], "<f4").reshape(tuple(reply.outputs[index].shape))


def strings(raw: bytes) -> list[str]:
    """The elements of a raw BYTES output."""
    found = []
    while raw:
        length = int.from_bytes(raw[:4], "little")
        found.append(raw[4 : 4 + length].decode())
        raw = raw[4 + length :]
    return found
