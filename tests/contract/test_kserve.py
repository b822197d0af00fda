"""KServe's Python client, in a process and an environment of its own, against a real server."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

pytestmark = pytest.mark.timeout(400)  # the first run installs the client


@pytest.fixture(scope="module")
def found(run_client: Callable[..., dict[str, Any]]) -> dict[str, Any]:
    installed = (Path(__file__).parents[2] / ".venv-contract-kserve").exists()
    if not installed and "KSERVE_CLIENT" not in os.environ:
        pytest.skip("NOT TESTED: KServe's client takes minutes to install; set KSERVE_CLIENT=1 to do it once")
    return run_client("kserve")


def test_live_ready_metadata(found: dict[str, Any]) -> None:
    """What the client asks before it infers."""
    assert (found["live"], found["ready"], found["model_ready"]) == (True, True, True)
    assert found["metadata"] == "convserve"


@pytest.mark.parametrize("model", ["mnist", "cifar10"])
@pytest.mark.parametrize("encoding", ["uint8 raw", "uint8 typed", "fp32 raw", "fp32 typed", "bytes raw"])
def test_equal_answers(
    found: dict[str, Any], expected: dict[str, npt.NDArray[np.float64]], model: str, encoding: str
) -> None:
    """200 real images in every encoding: the same most probable class, and probabilities to 1e-6."""
    values = found["arrays"][f"{model} {encoding}"]
    assert values.shape == expected[model].shape == (200, 10)
    assert (values.argmax(1) == expected[model].argmax(1)).all()
    assert np.abs(values - expected[model]).max() <= 1e-6


def test_load_and_unload(found: dict[str, Any]) -> None:
    """With KServe's numbers of fields in both directions."""
    assert found["repository"] == ["mnist", True, "mnist", True]
