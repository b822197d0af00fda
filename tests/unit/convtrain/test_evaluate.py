"""Figures on a split are what counting by hand gives."""

from __future__ import annotations

import math

import numpy as np
import pytest

from convtrain.evaluate import evaluate
from convtrain.predictions import Predictions


def test_figures_are_counted() -> None:
    """Four images of three classes, one of them wrong, one class without images."""
    probabilities = np.array([[0.5, 0.25, 0.25], [0.25, 0.5, 0.25], [0.5, 0.25, 0.25], [1, 0, 0]], np.float32)
    result = evaluate(Predictions(np.zeros_like(probabilities), probabilities), np.array([0, 1, 1, 0]), "abc", "digest")
    assert (result.images, result.correct, result.accuracy) == (4, 3, 0.75)
    assert result.loss == pytest.approx((math.log(2) + math.log(2) + math.log(4) + 0) / 4)
    assert result.per_class_accuracy == {"a": 1.0, "b": 0.5}
    assert result.confusion == [[2, 0, 0], [1, 1, 0], [0, 0, 0]]
    assert result.weights_sha256 == "digest"
    # Bins of a fifteenth: three images at 0.5, two of them right; one at 1, right. Without logits all say a third.
    assert result.ece == pytest.approx(3 / 4 * abs(2 / 3 - 0.5))
    assert result.ece_uncalibrated == pytest.approx(abs(2 / 4 - 1 / 3))


def test_a_probability_of_zero_costs_much_and_not_everything() -> None:
    """A loss of infinity could not be written as JSON."""
    probabilities = np.array([[1, 0]], np.float32)
    result = evaluate(Predictions(probabilities, probabilities), np.array([1]), "ab", "")
    assert math.isfinite(result.loss)
    assert result.loss > 80
