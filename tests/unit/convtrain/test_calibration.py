"""Temperature scaling makes probabilities mean what they say, and changes no answer."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest

from convtrain.calibration import (
    LARGEST,
    SMALLEST,
    calibrate,
    expected_calibration_error,
    loss,
    reliability,
    softmax,
)


def honest(count: int = 20_000) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Logits whose probabilities are those the labels were drawn with."""
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, (count, 5)).astype(np.float32)
    draws = rng.random((count, 1))
    labels = (softmax(logits).cumsum(axis=1) < draws).sum(axis=1).clip(0, 4)
    return logits, labels.astype(np.int64)


@pytest.mark.parametrize("factor", [0.5, 1.0, 3.0])
def test_the_temperature_undoes_false_certainty(factor: float) -> None:
    """A model that is `factor` times too sure gets that factor as its temperature, and its error goes away."""
    logits, labels = honest()
    found = calibrate(logits * np.float32(factor), labels, "digest")
    assert found.temperature == pytest.approx(factor, rel=0.05)
    assert found.ece_after is not None
    assert found.ece_before is not None
    assert found.loss_after is not None
    assert found.loss_before is not None
    assert found.ece_after < 0.02
    assert found.ece_before > 0.05 or factor == 1
    assert found.loss_after <= found.loss_before
    assert (found.images, found.weights_sha256) == (20_000, "digest")


def test_no_answer_changes() -> None:
    """Dividing by a positive number keeps the order."""
    logits, _ = honest(500)
    for temperature in (0.3, 4.0):
        np.testing.assert_array_equal(softmax(logits, temperature).argsort(axis=1), logits.argsort(axis=1))


def test_without_a_mistake_the_temperature_stays_within_reason() -> None:
    """Nothing tells how sure to be; absolute certainty is not an answer."""
    sure = np.eye(3, dtype=np.float32)
    assert calibrate(sure, np.arange(3), "").temperature == pytest.approx(SMALLEST, rel=1e-3)
    assert calibrate(sure, np.array([1, 2, 0]), "").temperature == pytest.approx(LARGEST, rel=1e-3)


def test_without_a_validation_split_there_is_no_temperature() -> None:
    """It is 1, and no figure is made up."""
    found = calibrate(None, np.empty(0, np.int64), "")
    assert (found.temperature, found.images, found.ece_before, found.ece_after) == (1.0, 0, None, None)


def test_the_error_is_the_gap_between_confidence_and_accuracy() -> None:
    """By hand: four images at 0.9, three right; one at 0.6, wrong."""
    probabilities = np.array([[0.9, 0.1]] * 4 + [[0.6, 0.4]], np.float32)
    labels = np.array([0, 0, 0, 1, 1])
    first, second = reliability(probabilities, labels)
    assert (first.images, first.accuracy) == (1, 0.0)
    assert (second.images, second.accuracy) == (4, 0.75)
    assert [first.confidence, second.confidence] == pytest.approx([0.6, 0.9])
    assert expected_calibration_error(probabilities, labels) == pytest.approx(0.8 * 0.15 + 0.2 * 0.6)


def test_loss_and_softmax_stand_large_logits() -> None:
    """exp(1000) is no number; the results are."""
    logits = np.array([[1000.0, 0.0], [0.0, 0.0]], np.float32)
    np.testing.assert_allclose(softmax(logits), np.array([[1, 0], [0.5, 0.5]]))
    assert loss(logits, np.array([0, 1])) == pytest.approx(math.log(2) / 2)
    assert loss(logits, np.array([1, 1])) == pytest.approx((1000 + math.log(2)) / 2)
