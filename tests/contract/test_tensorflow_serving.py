"""TensorFlow Serving's own stubs, in a process and an environment of their own, against a real server."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from convserve.tensorflow_core.v1 import example_pb2, signature_pb2, tensor_pb2
from convserve.tensorflow_serving.v1 import model_pb2, prediction_pb2
from support.definitions import differences

pytestmark = pytest.mark.timeout(400)  # the first run installs the client

MODELS = Path(__file__).parents[2] / "models"
Probabilities = npt.NDArray[np.float64]


@pytest.fixture(scope="module")
def found(run_client: Callable[..., dict[str, Any]]) -> dict[str, Any]:
    spec = importlib.util.find_spec("tensorflow")
    if spec is None or spec.origin is None:
        pytest.skip("NOT TESTED: TensorFlow, whose messages the client needs, is not installed")
    folder = str(Path(spec.origin).parent)
    return run_client("tensorflow-serving", environment={"TENSORFLOW": folder, "MODELS": str(MODELS)})


def test_definitions_are_the_real_ones(found: dict[str, Any]) -> None:
    """Name, number, type and cardinality of every field; an enum of status codes is an int32 here."""
    files = [
        *(model_pb2.DESCRIPTOR, prediction_pb2.DESCRIPTOR),
        *(example_pb2.DESCRIPTOR, signature_pb2.DESCRIPTOR, tensor_pb2.DESCRIPTOR),
    ]
    assert differences(files, found["definitions"], {"tensorflow.serving.StatusProto.error_code"}) == []
    assert {name: found["types"][name] for name in tensor_pb2.DataType.keys()} == dict(tensor_pb2.DataType.items())  # noqa: SIM118


@pytest.mark.parametrize("model", ["mnist", "cifar10"])
@pytest.mark.parametrize(
    "encoding", ["content", "typed", "float", "float_typed", "unit", "files", "files_signature", "classified"]
)
def test_equal_answers(found: dict[str, Any], expected: dict[str, Probabilities], model: str, encoding: str) -> None:
    """200 real images in every encoding: the same most probable class, and probabilities to 1e-6."""
    values = found["arrays"][f"{model} {encoding}"]
    assert values.shape == expected[model].shape == (200, 10)
    assert (values.argmax(1) == expected[model].argmax(1)).all()
    assert np.abs(values - expected[model]).max() <= 1e-6


def test_what_answered(found: dict[str, Any], expected: dict[str, Probabilities], versions: dict[str, int]) -> None:
    """Model, version, signature, filtered outputs, and the first class."""
    assert found["spec"] == ["mnist", versions["mnist"], "serving_default"]
    assert found["filtered"] == ["logits"]
    for model, values in expected.items():
        assert found[f"{model} first_class"] == values.argmax(1).tolist()


def test_metadata_and_status(found: dict[str, Any], versions: dict[str, int]) -> None:
    """`Any` unpacks into the real SignatureDefMap."""
    assert found["unpacked"] is True
    assert found["signatures"] == ["classify", "encoded_images", "serving_default", "unit_range"]
    assert found["image"] == [tensor_pb2.DT_UINT8, [-1, 28, 28, 1]]
    assert found["status"][str(versions["mnist"])] == "AVAILABLE"


@pytest.mark.parametrize(
    ("case", "status", "message"),
    [
        ("unknown model", "NOT_FOUND", "the models here are"),
        ("unknown version", "NOT_FOUND", "has no version 999"),
        ("unknown label", "NOT_FOUND", "has no alias"),
        ("unknown signature", "INVALID_ARGUMENT", "signatures are"),
        ("unknown output", "INVALID_ARGUMENT", "the outputs are"),
        ("fractions", "INVALID_ARGUMENT", "whole numbers"),
        ("full queue", "RESOURCE_EXHAUSTED", "the queue"),
        ("deadline", "DEADLINE_EXCEEDED", ""),
        ("no examples", "INVALID_ARGUMENT", "input"),
        ("metadata", "INVALID_ARGUMENT", "metadata_field"),
        ("status", "NOT_FOUND", "the models here are"),
        ("regress", "UNIMPLEMENTED", "call Predict or Classify"),
        ("multi", "UNIMPLEMENTED", "call Predict or Classify"),
        ("reload", "UNIMPLEMENTED", "LoadModel"),
    ],
)
def test_errors(found: dict[str, Any], case: str, status: str, message: str) -> None:
    """The client shows our status and sentence."""
    assert found["errors"][case][0] == status
    assert message in found["errors"][case][1]
