"""How well predictions fit the labels of a split."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np

from convtrain.calibration import expected_calibration_error, softmax
from convtrain.datasets import Labels
from convtrain.predictions import Predictions


class Evaluation(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Figures on a split."""

    images: int
    """Images of the split."""
    correct: int
    """Images classified rightly."""
    accuracy: float
    """`correct / images`."""
    loss: float
    """Mean negative logarithm of the probability of the right class, in nats."""
    ece: float
    """Expected calibration error of the probabilities, 0 to 1."""
    ece_uncalibrated: float
    """What it would be without the temperature."""
    per_class_accuracy: dict[str, float]
    """Accuracy on the images of each label; labels without images are left out."""
    confusion: list[list[int]]
    """Images by class (rows) and by predicted class (columns)."""
    weights_sha256: str
    """Digest of the weights that were measured."""


def evaluate(predictions: Predictions, labels: Labels, names: Sequence[str], weights_sha256: str) -> Evaluation:
    """Measure predictions against labels, int64 [N]. `names` are the classes in the order of their index."""
    predicted = predictions.probabilities.argmax(axis=1)
    confusion = np.zeros((len(names), len(names)), np.int64)
    np.add.at(confusion, (labels, predicted), 1)
    of_class, right = confusion.sum(axis=1), confusion.diagonal()
    right_probability = predictions.probabilities[np.arange(len(labels)), labels].astype(np.float64)
    smallest = np.finfo(np.float32).tiny  # a probability of 0 is one too small for float32
    correct = int(right.sum())
    return Evaluation(
        images=len(labels),
        correct=correct,
        accuracy=correct / len(labels),
        loss=float(-np.log(np.maximum(right_probability, smallest)).mean()),
        per_class_accuracy={
            name: float(right[index] / of_class[index]) for index, name in enumerate(names) if of_class[index]
        },
        confusion=confusion.tolist(),
        ece=expected_calibration_error(predictions.probabilities, labels),
        ece_uncalibrated=expected_calibration_error(softmax(predictions.logits), labels),
        weights_sha256=weights_sha256,
    )
