"""The figures of a report, gathered from what the steps of a run left behind."""

from __future__ import annotations

import datetime
from dataclasses import asdict, dataclass
from typing import Any

import msgspec
import numpy as np

from convserve import manifest
from convtrain import environment
from convtrain.calibration import Bin, Calibration, reliability, softmax
from convtrain.datasets import Split
from convtrain.evaluate import Evaluation
from convtrain.history import History
from convtrain.layout import lay_out
from convtrain.predictions import Predictions
from convtrain.runs import RunRecord

WORST = 24
"""Mistakes that are shown."""


@dataclass(frozen=True)
class Sources:
    """What the steps of a run left behind."""

    record: RunRecord
    """What was trained, on which data."""
    history: History
    """Figures of the epochs."""
    calibration: Calibration
    """The temperature."""
    evaluation: Evaluation
    """Figures on the test split."""
    parity: dict[str, manifest.Parity]
    """Agreement of the exported forms with the trained model."""
    trials: dict[str, manifest.VariantTrial]
    """Variants that were tried, if any."""
    predictions: Predictions
    """What the model says about the test split."""
    test: Split
    """The test split."""


class Mistake(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A test image that the model classifies wrongly."""

    image: int
    """Its number in the test split."""
    label: str
    """What it is."""
    predicted: str
    """What the model says."""
    probability: float
    """How sure it is of that."""
    label_probability: float
    """Probability of what it is."""


class Report(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The content of `report.json`."""

    created: str
    """Moment of writing, ISO 8601, UTC."""
    preset: str
    """Name of the preset."""
    summary: str
    """What it is, in a line."""
    command: str
    """The command that trained it."""
    seed: int
    """Seed of weights, order of images and splits."""
    settings: dict[str, Any]
    """The training configuration."""
    layers: list[dict[str, Any]]
    """Name, shape, parameters, multiply-adds and receptive field of every layer."""
    parameters: int
    """All parameters."""
    multiply_adds: int
    """Multiplications with addition for one image."""
    dataset: manifest.Dataset
    """Name, sizes and digests of the data."""
    labels: list[str]
    """Class names in the order of their index."""
    history: History
    """Figures of the epochs."""
    calibration: Calibration
    """The temperature, chosen on the validation split."""
    evaluation: Evaluation
    """Figures on the test split."""
    reliability: list[Bin]
    """Confidence and accuracy on the test split, by confidence."""
    reliability_uncalibrated: list[Bin]
    """The same without the temperature."""
    mistakes: list[Mistake]
    """The mistakes the model is most sure of, worst first."""
    parity: dict[str, manifest.Parity]
    """Agreement of the exported forms with the trained model."""
    trials: dict[str, manifest.VariantTrial]
    """Variants that were tried."""
    trained_with: dict[str, str]
    """Versions of the libraries that training began with; empty for older runs."""
    environment: dict[str, str]
    """What the report was made on: system, processor, libraries."""


def gather(sources: Sources) -> Report:
    """Gather a report."""
    record, preset = sources.record, sources.record.preset
    rows = lay_out(preset.architecture, preset.input, len(record.labels))
    labels = sources.test.labels
    return Report(
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        preset=preset.name,
        summary=preset.summary,
        command=record.command,
        seed=preset.training.seed,
        settings=msgspec.to_builtins(preset.training),
        layers=[asdict(row) for row in rows],
        parameters=sum(row.parameters for row in rows),
        multiply_adds=sum(row.multiply_adds for row in rows),
        dataset=record.dataset,
        labels=record.labels,
        history=sources.history,
        calibration=sources.calibration,
        evaluation=sources.evaluation,
        reliability=reliability(sources.predictions.probabilities, labels),
        reliability_uncalibrated=reliability(softmax(sources.predictions.logits), labels),
        mistakes=worst_mistakes(sources.predictions, sources.test, record.labels),
        parity=sources.parity,
        trials=sources.trials,
        trained_with=record.frameworks,
        environment=environment.describe(),
    )


def worst_mistakes(predictions: Predictions, test: Split, names: list[str], count: int = WORST) -> list[Mistake]:
    """The wrong answers with the highest probability, worst first."""
    probabilities = predictions.probabilities
    predicted = probabilities.argmax(axis=1)
    wrong = np.flatnonzero(predicted != test.labels)
    worst = wrong[np.argsort(-probabilities[wrong, predicted[wrong]], kind="stable")][:count]
    return [
        Mistake(
            image=int(index),
            label=names[test.labels[index]],
            predicted=names[predicted[index]],
            probability=float(probabilities[index, predicted[index]]),
            label_probability=float(probabilities[index, test.labels[index]]),
        )
        for index in worst
    ]
