"""Making probabilities mean what they say: temperature scaling, and how far off they are.

One number divides all logits. It changes no class and no order, only how sure the model says it is. Source: Guo et al.
2017, "On Calibration of Modern Neural Networks".
"""

from __future__ import annotations

import msgspec
import numpy as np

from convserve.arrays import Logits, Probabilities
from convtrain.datasets import Labels

BINS = 15
"""Bins of the expected calibration error, as in the paper."""
SMALLEST, LARGEST = 0.05, 20.0
"""Limits of the temperature. A split without a mistake would ask for 0, which no one should believe."""


class Calibration(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The temperature of a run, and what it did on the validation split it was chosen on."""

    temperature: float
    """Probabilities are softmax(logits / temperature). 1 where there is no validation split."""
    images: int
    """Images of the validation split."""
    loss_before: float | None
    """Mean negative logarithm of the right class's probability at temperature 1, in nats; None without a split."""
    loss_after: float | None
    """The same at this temperature."""
    ece_before: float | None
    """Expected calibration error at temperature 1, 0 to 1; None without a split."""
    ece_after: float | None
    """The same at this temperature."""
    weights_sha256: str
    """Digest of the weights that were calibrated."""


class Bin(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Images whose most probable class has a probability in one range."""

    images: int
    """How many there are."""
    confidence: float
    """Their mean probability of the most probable class."""
    accuracy: float
    """Share that is classified rightly. Equal to `confidence` where probabilities mean what they say."""


def calibrate(logits: Logits | None, labels: Labels, weights_sha256: str) -> Calibration:
    """Choose the temperature on a validation split: float32 [N, classes] and int64 [N]; None where there is none."""
    if logits is None:
        return Calibration(
            temperature=1.0,
            images=0,
            loss_before=None,
            loss_after=None,
            ece_before=None,
            ece_after=None,
            weights_sha256=weights_sha256,
        )
    temperature = round(_best_temperature(logits, labels), 4)
    return Calibration(
        temperature=temperature,
        images=len(labels),
        loss_before=loss(logits, labels),
        loss_after=loss(logits, labels, temperature),
        ece_before=expected_calibration_error(softmax(logits), labels),
        ece_after=expected_calibration_error(softmax(logits, temperature), labels),
        weights_sha256=weights_sha256,
    )


def softmax(logits: Logits, temperature: float = 1.0) -> Probabilities:
    """Probabilities, float32 [N, classes]."""
    scaled = logits.astype(np.float64) / temperature
    powers = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True), np.float32)


def loss(logits: Logits, labels: Labels, temperature: float = 1.0) -> float:
    """Mean negative logarithm of the right class's probability, in nats."""
    scaled = logits.astype(np.float64) / temperature
    highest = scaled.max(axis=1)
    logsumexp = highest + np.log(np.exp(scaled - highest[:, None]).sum(axis=1))
    return float((logsumexp - scaled[np.arange(len(labels)), labels]).mean())


def reliability(probabilities: Probabilities, labels: Labels, bins: int = BINS) -> list[Bin]:
    """Group images by how sure the model is, in `bins` ranges of equal width; empty ranges are left out."""
    confidence = probabilities.max(axis=1).astype(np.float64)
    right = probabilities.argmax(axis=1) == labels
    numbers = np.minimum((confidence * bins).astype(int), bins - 1)
    return [
        Bin(images=int(inside.sum()), confidence=float(confidence[inside].mean()), accuracy=float(right[inside].mean()))
        for inside in (numbers == number for number in range(bins))
        if inside.any()
    ]


def expected_calibration_error(probabilities: Probabilities, labels: Labels) -> float:
    """Mean gap between confidence and accuracy over `BINS` bins, weighted by their images; 0 is perfect."""
    found = reliability(probabilities, labels)
    return sum(one.images * abs(one.confidence - one.accuracy) for one in found) / len(labels)


def _best_temperature(logits: Logits, labels: Labels) -> float:
    """The temperature with the least loss. The loss has one valley over the temperature, so thirds close in on it."""
    low, high = np.log(SMALLEST), np.log(LARGEST)
    for _ in range(40):
        left, right = low + (high - low) / 3, high - (high - low) / 3
        if loss(logits, labels, np.exp(left)) <= loss(logits, labels, np.exp(right)):
            high = right
        else:
            low = left
    return float(np.exp((low + high) / 2))
