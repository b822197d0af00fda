"""Calls every method with tritonclient. Runs in an environment of its own: `triton.py TARGET DIRECTORY`."""

from __future__ import annotations

import asyncio
import json
import os
import queue
import sys
from pathlib import Path
from typing import Any

import numpy as np
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from tritonclient.grpc import model_config_pb2, service_pb2
from tritonclient.utils import InferenceServerException

target, directory = sys.argv[1], Path(sys.argv[2])
images = np.load(directory / "mnist/images.npy")
versions = json.loads(os.environ["VERSIONS"])
found: dict[str, Any] = {}
arrays: dict[str, Any] = {}
client = triton.InferenceServerClient(target)


def given(values: Any, datatype: str) -> list[Any]:
    """The one input."""
    tensor = triton.InferInput("image", values.shape, datatype)
    tensor.set_data_from_numpy(values)
    return [tensor]


def failure(call: Any, *args: Any, **kwargs: Any) -> list[str]:
    """Status and message of a call that must fail."""
    try:
        call(*args, **kwargs)
    except InferenceServerException as error:
        return [str(error.status()), str(error.message())]
    return ["no error", ""]


def crowd(at: Any, inputs: Any) -> None:
    """Send more at once than the queue holds; raises what the first request that was refused got."""
    answers: queue.Queue[Any] = queue.Queue()
    for _ in range(64):
        at.async_infer("mnist", inputs, lambda result, error: answers.put(error))
    errors = [answers.get(timeout=60) for _ in range(64)]
    raise next(error for error in errors if error)


def described(messages: Any) -> Any:
    """Full name and fields of messages and of those inside them."""
    for message in messages:
        yield (
            message.full_name,
            [
                [
                    *(field.name, field.number, field.type, field.is_repeated),
                    getattr(field.message_type or field.enum_type, "full_name", ""),
                ]
                for field in message.fields
            ],
        )
        yield from described(message.nested_types)


# Metadata, readiness, configuration
found["live"] = client.is_server_live()
found["ready"] = client.is_server_ready()
found["model_ready"] = [
    client.is_model_ready("mnist"),
    client.is_model_ready("mnist", "stable"),
    client.is_model_ready("other"),
]
found["server_metadata"] = client.get_server_metadata(as_json=True)
found["model_metadata"] = client.get_model_metadata("mnist", as_json=True)
found["config"] = client.get_model_config("mnist", as_json=True)["config"]


# Every encoding
def probabilities(model: str, values: Any, datatype: str, **options: Any) -> Any:
    """The probabilities for raw elements."""
    return client.infer(model, given(values, datatype), **options).as_numpy("probabilities")


def typed_probabilities(model: str, shape: Any, datatype: str, field: str, values: list[Any]) -> Any:
    """The probabilities for elements in a typed field, which this client does not use itself."""
    request = service_pb2.ModelInferRequest(model_name=model)
    tensor = request.inputs.add(name="image", datatype=datatype, shape=shape)
    getattr(tensor.contents, field).extend(values)
    return triton.InferResult(client._client_stub.ModelInfer(request)).as_numpy("probabilities")


for model in ("mnist", "cifar10"):
    pixels = np.load(directory / model / "images.npy")
    contents = [file.read_bytes() for file in sorted((directory / model).glob("*.png"))]
    files = np.array(contents, dtype=np.object_)
    unit = {"parameters": {"pixel_range": "0-1"}}
    for name, values in {
        "uint8": probabilities(model, pixels, "UINT8"),
        "int64": probabilities(model, pixels.astype(np.int64), "INT64", model_version=str(versions[model])),
        "fp16": probabilities(model, pixels.astype(np.float16), "FP16"),
        "fp32": probabilities(model, pixels.astype(np.float32), "FP32"),
        "fp64": probabilities(model, pixels.astype(np.float64), "FP64"),
        "fp16_unit": probabilities(model, (pixels / 255).astype(np.float16), "FP16", **unit),
        "fp32_unit": probabilities(model, (pixels / 255).astype(np.float32), "FP32", **unit),
        "bytes": probabilities(model, files, "BYTES", model_version="stable"),
        "bytes_column": probabilities(model, files[:, None], "BYTES"),
        "uint8_typed": typed_probabilities(model, pixels.shape, "UINT8", "uint_contents", pixels.ravel().tolist()),
        "fp32_typed": typed_probabilities(model, pixels.shape, "FP32", "fp32_contents", pixels.ravel().tolist()),
        "bytes_typed": typed_probabilities(model, [len(contents)], "BYTES", "bytes_contents", contents),
    }.items():
        arrays[f"{model} {name}"] = values

# Outputs, ids, priorities
only_logits = client.infer(
    "mnist", given(images[:2], "UINT8"), outputs=[triton.InferRequestedOutput("logits")], request_id="mine", priority=1
)
found["only_logits"] = [output.name for output in only_logits.get_response().outputs]
found["id"] = only_logits.get_response().id
explained = client.infer("mnist", given(images[:2], "UINT8"), parameters={"explain": True})
found["batches"] = json.loads(explained.get_response().parameters["batches"].string_param)
classes = client.infer(
    "mnist", given(images[:4], "UINT8"), outputs=[triton.InferRequestedOutput("probabilities", class_count=3)]
).as_numpy("probabilities")
found["classes"] = [[value.decode() for value in row] for row in classes]

# Streaming
answers: queue.Queue[Any] = queue.Queue()
client.start_stream(callback=lambda result, error: answers.put((result, error)))
for index in range(20):
    client.async_stream_infer(
        "mnist" if index != 7 else "other",
        given(images[index : index + 1], "UINT8"),
        enable_empty_final_response=index % 2 == 0,
    )
replies = [answers.get(timeout=30) for _ in range(20)]
client.stop_stream()
found["stream_errors"] = {index: str(error) for index, (_, error) in enumerate(replies) if error}
found["final"] = [
    result.get_response().parameters["triton_final_response"].bool_param for result, error in replies if error is None
]
arrays["stream"] = np.concatenate([result.as_numpy("probabilities") for result, error in replies if error is None])


async def run_aio() -> Any:
    """The same with asyncio."""
    async with triton_aio.InferenceServerClient(target) as asynchronous:
        calls = [asynchronous.infer("mnist", given(images[i : i + 1], "UINT8")) for i in range(20)]
        results = await asyncio.gather(*calls)

        async def requests() -> Any:
            for index in range(20):
                yield {"model_name": "mnist", "inputs": given(images[index : index + 1], "UINT8")}

        streamed = [result async for result, error in asynchronous.stream_infer(requests()) if error is None]
        return [np.concatenate([result.as_numpy("probabilities") for result in one]) for one in (results, streamed)]


arrays["aio"], arrays["aio_stream"] = asyncio.run(run_aio())

# Statistics and errors
found["statistics_of_all"] = [
    (one["name"], one["version"]) for one in client.get_inference_statistics(as_json=True)["model_stats"]
]
found["statistics"] = client.get_inference_statistics("mnist", as_json=True)["model_stats"][0]
found["errors"] = {
    "unknown model": failure(client.infer, "other", given(images[:1], "UINT8")),
    "unknown version": failure(client.infer, "mnist", given(images[:1], "UINT8"), model_version="999"),
    "wrong shape": failure(client.infer, "mnist", given(images[:1, :20], "UINT8")),
    "unknown output": failure(
        client.infer, "mnist", given(images[:1], "UINT8"), outputs=[triton.InferRequestedOutput("scores")]
    ),
    "timeout": failure(client.infer, "mnist", given(images, "UINT8"), timeout=1),
    "shared memory": failure(client.get_system_shared_memory_status),
    "cuda shared memory": failure(client.get_cuda_shared_memory_status),
    "trace": failure(client.get_trace_settings),
    "log": failure(client.get_log_settings),
}

narrow = triton.InferenceServerClient(os.environ["NARROW"])
found["errors"]["full queue"] = failure(crowd, narrow, given(images[:5], "UINT8"))
found["errors"]["no admin"] = failure(narrow.load_model, "mnist")
found["errors"]["no admin to unload"] = failure(narrow.unload_model, "mnist")
narrow.close()

# The repository
found["errors"]["unknown to load"] = failure(client.load_model, "other")
client.unload_model("mnist")
found["unloaded"] = client.get_model_repository_index(as_json=True)["models"]
found["errors"]["unloaded"] = failure(client.infer, "mnist", given(images[:1], "UINT8"))
client.load_model("mnist")
found["loaded"] = client.get_model_repository_index(as_json=True)["models"]
client.close()

# What the definitions look like in the real client
found["definitions"] = {
    name: fields
    for file in (service_pb2.DESCRIPTOR, model_config_pb2.DESCRIPTOR)
    for name, fields in described(file.message_types_by_name.values())
}
np.savez(directory / "arrays.npz", **arrays)
json.dump(found, sys.stdout)
