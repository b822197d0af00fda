"""tritonclient, in a process and an environment of its own, against a real server."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from convserve.open_inference.v2 import infer_pb2, management_pb2, model_config_pb2
from support.definitions import differences

pytestmark = pytest.mark.timeout(400)  # the first run installs the client

Probabilities = npt.NDArray[np.float64]


@pytest.fixture(scope="module")
def found(run_client: Callable[..., dict[str, Any]]) -> dict[str, Any]:
    return run_client("triton")


def test_definitions_are_the_real_ones(found: dict[str, Any]) -> None:
    """Name, number, type and cardinality of every field; the exceptions are KServe's fields and OIP's properties."""
    files = [infer_pb2.DESCRIPTOR, management_pb2.DESCRIPTOR, model_config_pb2.DESCRIPTOR]
    known = {
        *("inference.ModelMetadataResponse.properties", "inference.ModelMetadataResponse.PropertiesEntry"),
        *(f"inference.ModelMetadataResponse.PropertiesEntry.{name}" for name in ("key", "value")),
        *(f"inference.RepositoryModel{kind}Response.model_name" for kind in ("Load", "Unload")),
        "inference.RepositoryModelLoadResponse.is_loaded",
        "inference.RepositoryModelUnloadResponse.is_unloaded",
    }
    assert differences(files, found["definitions"], known) == []


def test_live_ready_metadata(found: dict[str, Any]) -> None:
    """What the client asks before it infers."""
    assert found["live"] is True
    assert found["ready"] is True
    assert found["model_ready"] == [True, True, False]
    assert found["server_metadata"]["name"] == "convserve"
    assert "classification" in found["server_metadata"]["extensions"]
    metadata = found["model_metadata"]
    assert metadata["platform"] == "onnxruntime_onnx"
    assert metadata["inputs"] == [{"name": "image", "datatype": "UINT8", "shape": ["-1", "28", "28", "1"]}]
    assert found["config"]["max_batch_size"] == 64
    assert found["config"]["input"][0]["data_type"] == "TYPE_UINT8"


@pytest.mark.parametrize("model", ["mnist", "cifar10"])
@pytest.mark.parametrize(
    "encoding",
    [
        *("uint8", "int64", "fp16", "fp32", "fp64", "fp16_unit", "fp32_unit", "bytes", "bytes_column"),
        *("uint8_typed", "fp32_typed", "bytes_typed"),
    ],
)
def test_equal_answers(found: dict[str, Any], expected: dict[str, Probabilities], model: str, encoding: str) -> None:
    """200 real images in every encoding: the same most probable class, and probabilities to 1e-6."""
    values = found["arrays"][f"{model} {encoding}"]
    assert values.shape == expected[model].shape == (200, 10)
    assert (values.argmax(1) == expected[model].argmax(1)).all()
    assert np.abs(values - expected[model]).max() <= 1e-6


def test_asyncio_and_streams(found: dict[str, Any], expected: dict[str, Probabilities]) -> None:
    """Concurrent calls and a stream give each request its own answer; one bad request ends nothing."""
    assert found["arrays"]["aio"] == pytest.approx(expected["mnist"][:20], abs=1e-6)
    assert found["arrays"]["aio_stream"] == pytest.approx(expected["mnist"][:20], abs=1e-6)
    assert found["arrays"]["stream"] == pytest.approx(np.delete(expected["mnist"][:20], 7, axis=0), abs=1e-6)
    assert found["final"] == [True] * 19
    assert list(found["stream_errors"]) == ["7"]
    assert "does not exist" in found["stream_errors"]["7"]


def test_outputs_and_classes(found: dict[str, Any], expected: dict[str, Probabilities]) -> None:
    """Requested outputs, ids, and the classification extension."""
    assert found["only_logits"] == ["logits"]
    assert found["id"] == "mine"
    assert [batch["request_rows"] for batch in found["batches"]] == [2]
    for texts, row in zip(found["classes"], expected["mnist"], strict=False):
        order = np.argsort(-row, kind="stable")[:3]
        assert [int(text.split(":")[1]) for text in texts] == order.tolist()
        assert [float(text.split(":")[0]) for text in texts] == pytest.approx(row[order], abs=2e-6)
        assert [text.split(":")[2] for text in texts] == [str(index) for index in order]


def test_statistics(found: dict[str, Any], versions: dict[str, int]) -> None:
    """The client reads them."""
    statistics = found["statistics"]
    assert int(statistics["inference_count"]) >= 1200
    assert int(statistics["inference_stats"]["success"]["count"]) >= 45
    assert statistics["batch_stats"]
    assert dict(found["statistics_of_all"]) == {model: str(number) for model, number in versions.items()}


@pytest.mark.parametrize(
    ("case", "status", "message"),
    [
        ("unknown model", "NOT_FOUND", "the models here are"),
        ("unknown version", "NOT_FOUND", "has no version 999"),
        ("wrong shape", "INVALID_ARGUMENT", "takes 28×28×1"),
        ("unknown output", "INVALID_ARGUMENT", "the model's outputs are"),
        ("timeout", "DEADLINE_EXCEEDED", ""),
        ("shared memory", "UNIMPLEMENTED", "shared memory is not offered"),
        ("cuda shared memory", "UNIMPLEMENTED", "shared memory is not offered"),
        ("trace", "UNIMPLEMENTED", "TraceSetting"),
        ("log", "UNIMPLEMENTED", "LogSettings"),
        ("full queue", "RESOURCE_EXHAUSTED", "the queue"),
        ("no admin", "PERMISSION_DENIED", "admin_methods"),
        ("no admin to unload", "PERMISSION_DENIED", "admin_methods"),
        ("unknown to load", "NOT_FOUND", "'other'"),
        ("unloaded", "FAILED_PRECONDITION", "no available version"),
    ],
)
def test_errors(found: dict[str, Any], case: str, status: str, message: str) -> None:
    """The client shows our status and sentence."""
    assert found["errors"][case][0] == f"StatusCode.{status}"
    assert message in found["errors"][case][1]


def test_repository(found: dict[str, Any], versions: dict[str, int]) -> None:
    """Unload and load."""
    unloaded, loaded = (
        {(model["name"], model["version"]): model["state"] for model in found[key]} for key in ("unloaded", "loaded")
    )
    assert unloaded["mnist", str(versions["mnist"])] == "UNAVAILABLE"
    assert loaded["mnist", str(versions["mnist"])] == "READY"
