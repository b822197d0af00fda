"""Trying faster files of a model, and keeping those that are worth it here.

A variant is published only when it was measured to be faster on this machine and answers as well: this is not decided
by belief. What was tried and why it was kept or not stands in the manifest either way.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from convserve import manifest
from convserve.manifest import ONNX_FILE, VariantTrial
from convtrain import environment, latency, quantize
from convtrain.datasets.split import Split, stratified
from convtrain.errors import ExportError
from convtrain.parity import MAX_DIFFERENCE
from convtrain.predictions import Predictions, from_session
from convtrain.runs import Data

LEAST_SPEEDUP = 1.05
"""int8 must be so much faster in every batch size that is measured; less is within what a measurement is worth."""
MOST_LOSS = 0.003
"""Share of images (0.3 points) that int8 may classify wrongly besides, on the validation and on the test split."""
LEAST_LOAD_SPEEDUP = 1.2
"""An optimised graph runs as the one it was made from; what it saves is time to load, at least so much of it."""
LEAST_OPTIMIZED_SPEEDUP = 0.95

GOOD = {"int8": "faster here, and answers as well", "optimized": "loads faster here, and answers the same"}
FILES = {"int8": "model.int8.onnx", "optimized": "model.optimized.onnx"}


class VariantRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What came of trying the variants of a run."""

    source_sha256: str
    """Digest of the `model.onnx` they were made of."""
    trials: dict[str, VariantTrial]
    """Figures and verdict, by variant."""
    files: dict[str, str]
    """SHA-256 of the files that passed, by name."""


def try_variants(source: Path, directory: Path, data: Data, seed: int) -> VariantRecord:
    """Make every variant, measure it against the float32 file, and leave in `directory` those that are worth it.

    int8 is calibrated with training images. The validation split judges it, where there is one, and the test split may
    only refuse what the validation split let through.

    Args:
        source: the exported directory with the proved `model.onnx`.
        directory: where the variants go; an older one is replaced.
        data: the splits of the run.
        seed: chooses the calibration images.

    Raises:
        ExportError: the directory cannot be written.
    """
    train, validation, test = data.train, data.validation, data.test
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    base = source / ONNX_FILE
    paths = {name: directory / file for name, file in FILES.items()}
    chosen = stratified(train.labels, min(quantize.CALIBRATION_IMAGES, len(train)), seed)
    try:
        quantize.write_int8(base, paths["int8"], train.images[chosen])
        quantize.write_optimized(base, paths["optimized"])
    except (ImportError, MemoryError):
        raise
    except Exception as error:  # onnxruntime has classes of its own for a disk that is full, which share no base
        reason = getattr(error, "strerror", None) or str(error).partition("\n")[0] or type(error).__name__
        raise ExportError(f"{directory}: the variants cannot be made ({reason}); none was tried") from error
    opens: dict[str, Callable[[], Any]] = {
        "fp32": lambda: latency.open_session(base),
        "int8": lambda: latency.open_session(paths["int8"]),
        "optimized": lambda: latency.open_session(paths["optimized"], optimized=True),
    }
    sessions = {name: one() for name, one in opens.items()}
    loads = latency.compare_loads(opens)
    runs = latency.compare_runs(sessions, test.images)
    answers = {name: from_session(session, test.images) for name, session in sessions.items()}
    choosing = {
        name: _accuracy(from_session(session, validation.images), validation)
        for name, session in sessions.items()
        if len(validation)
    }
    trials = {}
    for name in FILES:
        trial = VariantTrial(
            published=False,
            verdict="",
            accuracy=_accuracy(answers[name], test),
            validation_loss_points=100 * (choosing["fp32"] - choosing[name]) if choosing else None,
            test_loss_points=100 * (_accuracy(answers["fp32"], test) - _accuracy(answers[name], test)),
            max_abs_diff_probabilities=float(np.abs(answers["fp32"].probabilities - answers[name].probabilities).max()),
            speedup={str(size): runs["fp32"][size] / runs[name][size] for size in runs[name]},
            load_speedup=loads["fp32"] / loads[name],
            bytes=paths[name].stat().st_size,
            processor=environment.processor(),
        )
        against = judge(name, trial)
        trials[name] = msgspec.structs.replace(trial, published=not against, verdict=against or GOOD[name])
        if against:
            paths[name].unlink()
    return VariantRecord(
        source_sha256=manifest.sha256_file(base), trials=trials, files=manifest.digest_files(directory)
    )


def judge(name: str, trial: VariantTrial) -> str:
    """Why a variant is not worth publishing; empty when it is."""
    slowest = min(trial.speedup.values())
    if name == "optimized":
        if trial.max_abs_diff_probabilities > MAX_DIFFERENCE:
            return f"a probability differs by {trial.max_abs_diff_probabilities:.3g}, {MAX_DIFFERENCE:g} is accepted"
        if slowest < LEAST_OPTIMIZED_SPEEDUP:
            return f"slower: {slowest:.2f} times as fast as fp32"
        if trial.load_speedup < LEAST_LOAD_SPEEDUP:
            return f"loads {trial.load_speedup:.2f} times as fast, {LEAST_LOAD_SPEEDUP:g} is wanted"
        return ""
    for split, points in (("validation", trial.validation_loss_points), ("test", trial.test_loss_points)):
        if points is not None and points > 100 * MOST_LOSS + 1e-9:
            return f"loses {points:.2f} points on the {split} split, {100 * MOST_LOSS:g} are accepted"
    if slowest < LEAST_SPEEDUP:
        return f"not faster: {slowest:.2f} times as fast as fp32, {LEAST_SPEEDUP:g} is wanted in every batch size"
    return ""


def golden_tolerance(fp32: Predictions, variant: Predictions) -> float:
    """Largest difference of a probability that a server accepts of a variant on the golden images.

    Half as much again as here, and a little: processors round the int8 products of a layer differently.
    """
    return round(1.5 * float(np.abs(fp32.probabilities - variant.probabilities).max()) + 0.01, 4)


def _accuracy(predictions: Predictions, split: Split) -> float:
    return float((predictions.probabilities.argmax(axis=1) == split.labels).mean())
