"""grpcio's own health and reflection clients, in a process that knows no definition of ours."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

Probabilities = npt.NDArray[np.float64]

SERVING = 1
UNARY = {
    *("ServerLive", "ServerReady", "ModelReady", "ServerMetadata", "ModelMetadata", "ModelInfer", "ModelConfig"),
    *("ModelStatistics", "RepositoryIndex", "RepositoryModelLoad", "RepositoryModelUnload"),
}


@pytest.fixture(scope="module")
def found(run_client: Callable[..., dict[str, Any]]) -> dict[str, Any]:
    return run_client("plain")


def test_health(found: dict[str, Any]) -> None:
    """Of the server, its liveness and readiness, a model and a service; one that does not exist is not found."""
    assert set(found["health"].values()) == {SERVING}
    assert found["watched"] == SERVING
    assert found["unknown"] == "NOT_FOUND"


def test_reflection_lists_every_service_and_method(found: dict[str, Any]) -> None:
    """Under their public names."""
    services = found["services"]
    assert set(services["convserve.v1.ClassificationService"]) == {"Classify"}
    assert set(services["inference.GRPCInferenceService"]) == UNARY | {"ModelStreamInfer"}
    assert set(services["tensorflow.serving.PredictionService"]) >= {"Predict", "Classify", "GetModelMetadata"}
    assert set(services["tensorflow.serving.ModelService"]) >= {"GetModelStatus"}
    assert set(services["grpc.health.v1.Health"]) == {"Check", "List", "Watch"}
    assert "convserve.v1.ModelService" in services
    assert "grpc.reflection.v1alpha.ServerReflection" in services


@pytest.mark.parametrize("dialect", ["inference", "tensorflow"])
def test_equal_answers(found: dict[str, Any], expected: dict[str, Probabilities], dialect: str) -> None:
    """Messages built from reflection alone, for 200 real images."""
    assert found["ours"] == []
    values = found["arrays"][dialect]
    assert (values.argmax(1) == expected["mnist"].argmax(1)).all()
    assert np.abs(values - expected["mnist"]).max() <= 1e-6
