"""onnxruntime. The only module that imports it."""

from __future__ import annotations

import hashlib
from pathlib import Path

import onnxruntime as ort

from convserve.arrays import Images
from convserve.batching import Outputs
from convserve.errors import ArtifactError
from convserve.manifest import INPUT_NAME, LOGITS_NAME, ONNX_FILE, PROBABILITIES_NAME, Manifest

ort.set_default_logger_severity(3)  # errors only: its warnings speak to people who build graphs


class OnnxRuntime:
    """An ONNX model in an onnxruntime session."""

    def __init__(self, directory: Path, manifest: Manifest, *, intra_op_threads: int) -> None:
        """Load `model.onnx` of a version.

        The bytes that are hashed are the bytes that are loaded: a file that changes in between changes nothing.

        Raises:
            ArtifactError: the file is missing or altered, or its inputs and outputs are not what the manifest says.
        """
        path = directory / ONNX_FILE
        content = _read_proved(path, manifest.files[ONNX_FILE])
        options = ort.SessionOptions()
        options.intra_op_num_threads = intra_op_threads
        options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self._session = ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime raises a dozen classes of its own that share no base
            raise ArtifactError(f"{path}: onnxruntime cannot load it: {error}") from error
        self.provider: str = self._session.get_providers()[0]
        self.device = "cpu"
        self.variant = "fp32"
        _check_signature(path, self._session, manifest)

    def run(self, images: Images) -> Outputs:
        """Compute a batch, uint8 [n, H, W, C]."""
        logits, probabilities = self._session.run([LOGITS_NAME, PROBABILITIES_NAME], {INPUT_NAME: images})
        return Outputs(logits, probabilities)

    def close(self) -> None:
        """Free the session."""
        del self._session


def _read_proved(path: Path, expected: str) -> bytes:
    """Read a file whose SHA-256 must be `expected`."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ArtifactError(f"{path}: cannot be read ({error.strerror})") from error
    actual = hashlib.sha256(content).hexdigest()
    if actual != expected:
        raise ArtifactError(
            f"{path}: SHA-256 is {actual}, the manifest says {expected}; the file is not the one published"
        )
    return content


def _check_signature(path: Path, session: ort.InferenceSession, manifest: Manifest) -> None:
    """Compare the graph's inputs and outputs with the manifest."""
    actual = {
        node.name: (node.type, [size if isinstance(size, int) else None for size in node.shape])
        for node in (*session.get_inputs(), *session.get_outputs())
    }
    classes = len(manifest.labels)
    expected = {
        INPUT_NAME: ("tensor(uint8)", [None, *manifest.input.shape]),
        LOGITS_NAME: ("tensor(float)", [None, classes]),
        PROBABILITIES_NAME: ("tensor(float)", [None, classes]),
    }
    if actual != expected:
        raise ArtifactError(f"{path}: inputs and outputs are {actual}; the manifest wants {expected}")
