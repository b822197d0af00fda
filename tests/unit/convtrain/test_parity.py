"""The gate names the form, the image and the difference."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from convtrain import parity
from convtrain.errors import ParityError
from convtrain.predictions import Predictions


def predictions(probabilities: npt.NDArray[np.float32]) -> Predictions:
    return Predictions(np.log(probabilities), probabilities)


@pytest.fixture
def trained() -> Predictions:
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(50, 4)).astype(np.float32)
    return predictions(np.asarray(np.exp(logits) / np.exp(logits).sum(1, keepdims=True), np.float32))


def test_small_differences_pass_and_are_measured(trained: Predictions) -> None:
    """What is published says how close it was."""
    moved = trained.probabilities.copy()
    moved[17, 2] += 4e-6
    found = parity.compare(trained, predictions(moved), "onnx")
    assert found.images == 50
    assert found.max_abs_diff_probabilities == pytest.approx(4e-6, rel=0.05)
    assert found.max_abs_diff_logits > 0
    assert found.top1_disagreements == 0


def test_a_larger_difference_fails(trained: Predictions) -> None:
    """One probability of one image is enough."""
    moved = trained.probabilities.copy()
    moved[17, 2] += 2e-5
    moved[18, 2] += 1.5e-5
    with pytest.raises(ParityError, match=r"onnx: image 17: a probability differs by 2e-05"):
        parity.compare(trained, predictions(moved), "onnx")


def test_what_is_no_number_fails(trained: Predictions) -> None:
    """NaN compares as neither larger nor smaller."""
    moved = trained.probabilities.copy()
    moved[3, 0] = np.nan
    with pytest.raises(ParityError, match="saved_model: image 3: a probability differs by nan"):
        parity.compare(trained, predictions(moved), "saved_model")


def test_another_class_fails_however_close(trained: Predictions) -> None:
    """Two equal probabilities leave no room for the smallest change of order."""
    even, moved = trained.probabilities.copy(), trained.probabilities.copy()
    even[5] = [0.4, 0.4, 0.1, 0.1]
    moved[5] = [0.4, 0.400001, 0.1, 0.1]
    with pytest.raises(ParityError, match="onnx: image 5: the most probable class is 1, the trained model's is 0"):
        parity.compare(predictions(even), predictions(moved), "onnx")


def test_another_shape_fails(trained: Predictions) -> None:
    """A form that forgets images or classes is not compared further."""
    with pytest.raises(ParityError, match=r"onnx: probabilities are \(49, 4\)"):
        parity.compare(trained, predictions(trained.probabilities[1:]), "onnx")
