"""The gate before an export: every form of the model says the same as the one that was trained."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from convserve.arrays import Images
from convserve.manifest import ONNX_FILE, Parity
from convtrain.errors import ParityError
from convtrain.predictions import Predictions, from_onnx, from_saved_model

MAX_DIFFERENCE = 1e-5
"""Largest absolute difference of any probability that passes."""


def prove(directory: Path, trained: Predictions, images: Images) -> dict[str, Parity]:
    """Compare the exported files in `directory` with what the trained model says about the same images.

    Returns:
        The agreement of `saved_model` and `onnx`.

    Raises:
        ParityError: a form disagrees; names it, the image and by how much.
    """
    return {
        "saved_model": compare(trained, from_saved_model(directory, images), "saved_model"),
        "onnx": compare(trained, from_onnx(directory / ONNX_FILE, images), "onnx"),
    }


def compare(trained: Predictions, exported: Predictions, form: str) -> Parity:
    """Compare two sets of predictions for the same images.

    Raises:
        ParityError: a probability differs by more than `MAX_DIFFERENCE` or is no number, or a most probable class
            differs.
    """
    if exported.probabilities.shape != trained.probabilities.shape:
        raise ParityError(
            f"{form}: probabilities are {exported.probabilities.shape}, those of the trained model "
            f"{trained.probabilities.shape}"
        )
    differences = np.abs(exported.probabilities.astype(np.float64) - trained.probabilities).max(axis=1)  # [N]
    worst = int(np.argmax(np.where(np.isnan(differences), np.inf, differences)))
    if not differences[worst] <= MAX_DIFFERENCE:  # NaN fails too
        raise ParityError(
            f"{form}: image {worst}: a probability differs by {differences[worst]:.3g} from the trained model's; "
            f"{MAX_DIFFERENCE:g} is accepted. Nothing was exported"
        )
    expected, found = trained.probabilities.argmax(axis=1), exported.probabilities.argmax(axis=1)
    wrong = np.flatnonzero(expected != found)
    if len(wrong):
        first = int(wrong[0])
        raise ParityError(
            f"{form}: image {first}: the most probable class is {found[first]}, the trained model's is "
            f"{expected[first]} (difference of a probability: {differences[first]:.3g}; so on {len(wrong)} images). "
            "Nothing was exported"
        )
    return Parity(
        images=len(differences),
        max_abs_diff_probabilities=float(differences[worst]),
        max_abs_diff_logits=float(np.abs(exported.logits.astype(np.float64) - trained.logits).max()),
        top1_disagreements=0,
    )
