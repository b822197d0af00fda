"""TensorFlow, on a CPU or a GPU. The only module of the server that imports it.

TensorFlow's devices and threads are the process's, not a model's: the first version that is loaded settles them.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any

from convserve.arrays import Images
from convserve.batching import Outputs
from convserve.devices import Device
from convserve.errors import ArtifactError, RuntimeNotInstalledError
from convserve.manifest import (
    INPUT_NAME,
    LOGITS_NAME,
    MANIFEST_FILE,
    PROBABILITIES_NAME,
    SIGNATURE_FILE,
    Manifest,
    verify_files,
)

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # before the import: it greets in the log otherwise

import tensorflow as tf


class TensorFlowRuntime:
    """A SavedModel's `serving_default` signature."""

    def __init__(self, directory: Path, manifest: Manifest, *, device: Device, intra_op_threads: int) -> None:
        """Load the SavedModel at the root of a version directory.

        Raises:
            ArtifactError: it cannot be loaded, changed while it was, or has another signature than the manifest says.
            RuntimeNotInstalledError: there is no such device.
        """
        if device == "tensorrt":
            raise RuntimeNotInstalledError("device is 'tensorrt', which needs runtime = 'onnxruntime'")
        _settle_devices(device, intra_op_threads)
        _refuse_unlisted(directory, manifest)
        self._device = "/GPU:0" if device == "cuda" else "/CPU:0"
        try:
            with tf.device(self._device):
                self._model = tf.saved_model.load(str(directory))
            self._signature = self._model.signatures["serving_default"]
        except Exception as error:  # TensorFlow raises whatever its layers raise
            raise ArtifactError(f"{directory / 'saved_model.pb'}: TensorFlow cannot load it: {error}") from error
        # It reads the files by itself, after their digests were checked: check that they are still those.
        verify_files(directory, manifest)
        _check_signature(directory, self._signature, manifest)
        self.provider = f"TensorFlow {'GPU' if device == 'cuda' else 'CPU'}"
        self.device: Device = device
        self.variant = "saved_model"
        self.most_rows: int | None = None

    def run(self, images: Images) -> Outputs:
        """Compute a batch, uint8 [n, H, W, C]."""
        with tf.device(self._device):
            outputs = self._signature(**{INPUT_NAME: tf.constant(images)})
        return Outputs(outputs[LOGITS_NAME].numpy(), outputs[PROBABILITIES_NAME].numpy())

    def trim(self) -> None:
        """Do nothing: TensorFlow has no such call."""

    def close(self) -> None:
        """Let the model go; TensorFlow keeps the memory for the process."""
        del self._signature, self._model


def _refuse_unlisted(directory: Path, manifest: Manifest) -> None:
    """TensorFlow reads what it finds, such as further shards of variables: nothing may be there that was not published.

    Raises:
        ArtifactError: a file is not in the manifest; names it.
    """
    known = {*manifest.files, MANIFEST_FILE, SIGNATURE_FILE}
    for path in sorted(directory.rglob("*")):
        if not path.is_dir() and path.relative_to(directory).as_posix() not in known:
            raise ArtifactError(f"{path}: is not in the manifest; TensorFlow might read it")


def _settle_devices(device: Device, intra_op_threads: int) -> None:
    """Choose threads and devices, once for the process.

    Raises:
        RuntimeNotInstalledError: a GPU was asked for and TensorFlow sees none.
    """
    gpus = tf.config.list_physical_devices("GPU")
    if device == "cuda" and not gpus:
        raise RuntimeNotInstalledError(
            "device is 'cuda', and TensorFlow sees no GPU; it needs the driver and pip install 'tensorflow[and-cuda]'"
        )
    with contextlib.suppress(RuntimeError):  # already settled, by a version that was loaded before
        tf.config.threading.set_intra_op_parallelism_threads(intra_op_threads)
        tf.config.threading.set_inter_op_parallelism_threads(1)
        tf.config.experimental.enable_tensor_float_32_execution(False)
        for gpu in gpus:
            tf.config.experimental.set_memory_growth(gpu, True)
        if device == "cpu":
            tf.config.set_visible_devices([], "GPU")


def _check_signature(directory: Path, signature: Any, manifest: Manifest) -> None:
    """Compare the signature with the manifest."""
    inputs = signature.structured_input_signature[1]
    actual = {
        name: (spec.dtype.name, list(spec.shape))
        for name, spec in (*inputs.items(), *signature.structured_outputs.items())
    }
    classes = len(manifest.labels)
    expected = {
        INPUT_NAME: ("uint8", [None, *manifest.input.shape]),
        LOGITS_NAME: ("float32", [None, classes]),
        PROBABILITIES_NAME: ("float32", [None, classes]),
    }
    if actual != expected:
        raise ArtifactError(
            f"{directory / 'saved_model.pb'}: inputs and outputs are {actual}; the manifest wants {expected}"
        )
