"""Outputs over many images, from each form of the model."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from convserve.arrays import Images, Logits, Probabilities
from convserve.manifest import INPUT_NAME, LOGITS_NAME, PROBABILITIES_NAME
from convtrain import backend
from convtrain.errors import ExportError

MAX_BATCH = 500
MAX_BATCH_PIXELS = MAX_BATCH * 64 * 64
THREADS = 2


@dataclass(frozen=True)
class Predictions:
    """What a model says about N images."""

    logits: Logits
    """float32 [N, classes]."""
    probabilities: Probabilities
    """float32 [N, classes]."""


def batch_size(images: Images) -> int:
    """How many images to run at once: fewer of large ones, whose maps would not fit into memory."""
    pixels: int = images.shape[1] * images.shape[2]
    return max(1, min(MAX_BATCH, MAX_BATCH_PIXELS // pixels))


def from_keras(model: Any, images: Images) -> Predictions:
    """Run the model that was trained.

    Raises:
        MemoryError: the device's is full.
    """

    def run(batch: Images) -> tuple[Logits, Probabilities]:
        outputs = model(batch, training=False)
        return np.asarray(outputs[LOGITS_NAME]), np.asarray(outputs[PROBABILITIES_NAME])

    with backend.memory_errors():
        return _in_batches(run, images)


def from_saved_model(directory: Path, images: Images) -> Predictions:
    """Run an exported SavedModel as a server would: loaded by TensorFlow alone, called by its signature."""
    tf = backend.tensorflow()
    loaded = tf.saved_model.load(str(directory))  # keeps the variables alive
    signature = loaded.signatures["serving_default"]

    def run(batch: Images) -> tuple[Logits, Probabilities]:
        outputs = signature(**{INPUT_NAME: tf.constant(batch)})
        return outputs[LOGITS_NAME].numpy(), outputs[PROBABILITIES_NAME].numpy()

    return _in_batches(run, images)


def from_onnx(path: Path, images: Images) -> Predictions:
    """Run an exported ONNX file in onnxruntime on the CPU."""
    return from_session(onnx_session(path), images)


def from_session(session: Any, images: Images) -> Predictions:
    """Run an `onnxruntime.InferenceSession`."""

    def run(batch: Images) -> tuple[Logits, Probabilities]:
        logits, probabilities = session.run([LOGITS_NAME, PROBABILITIES_NAME], {INPUT_NAME: batch})
        return logits, probabilities

    return _in_batches(run, images)


def onnx_session(path: Path) -> Any:
    """Open an `onnxruntime.InferenceSession` on the CPU with few threads that sleep when idle."""
    import onnxruntime  # late: listing presets does without

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = THREADS
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


@contextlib.contextmanager
def onnx_errors(path: Path) -> Iterator[None]:
    """What onnxruntime raises of a file, in classes of its own that share no base, is an `ExportError` outside."""
    try:
        yield
    except (ImportError, MemoryError, OSError):
        raise
    except Exception as error:
        raise ExportError(f"{path}: onnxruntime cannot run it: {error}") from error


def _in_batches(run: Callable[[Images], tuple[Logits, Probabilities]], images: Images) -> Predictions:
    size = batch_size(images)
    parts = [run(images[start : start + size]) for start in range(0, len(images), size)]
    return Predictions(
        np.concatenate([logits for logits, _ in parts]), np.concatenate([probabilities for _, probabilities in parts])
    )
