"""A version that does not compute what was published never gets further than this."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from convserve import manifest as m
from convserve import proving
from convserve.arrays import Images
from convserve.batching import Outputs
from convserve.devices import Device
from convserve.errors import ArtifactError
from convserve.runtimes.onnx import OnnxRuntime
from support import versions


@pytest.fixture
def directory(repository: Path) -> Path:
    return repository / "stripes/1"


def load(directory: Path) -> tuple[m.Manifest, OnnxRuntime]:
    manifest, _ = m.read(directory)
    return manifest, OnnxRuntime(directory, manifest, intra_op_threads=1)


def test_a_good_version_is_proved_and_timed(directory: Path) -> None:
    """Every batch size is replayed and has a time."""
    manifest, runtime = load(directory)
    times = proving.prove(directory, manifest, runtime, [1, 3, 32])
    assert sorted(times.table()) == [1, 3, 32]
    assert all(seconds > 0 for seconds in times.table().values())


def test_the_runtime_computes_what_numpy_does(directory: Path) -> None:
    """The fixture model is what it says it is."""
    _, runtime = load(directory)
    images = versions.random_images(7, seed=5)
    assert np.allclose(runtime.run(images).probabilities, versions.reference(images), atol=1e-6)


def test_other_weights_are_found(directory: Path) -> None:
    """A file that was exchanged together with its digest still has to answer like the published one."""
    (directory / m.ONNX_FILE).write_bytes(versions.onnx_bytes(seed=1))
    versions.seal(directory)
    manifest, runtime = load(directory)
    with pytest.raises(ArtifactError, match=r"golden\.npz: replayed on CPUExecutionProvider in batches of 2: image 0"):
        proving.prove(directory, manifest, runtime, [2])


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"image": np.zeros((16, 8, 8, 1), np.uint8)}, "logits"),
        (
            {
                "image": np.zeros((4, 8, 8, 1), np.uint8),
                "logits": np.zeros((16, 4), np.float32),
                "probabilities": np.zeros((16, 4), np.float32),
            },
            "the manifest wants",
        ),
        ({"image": np.array([object()], dtype=object)}, "cannot be read as golden vectors"),
    ],
)
def test_bad_golden_files_are_refused(directory: Path, arrays: dict[str, np.ndarray], message: str) -> None:
    """Missing arrays, other shapes, and pickles: never read, always named."""
    np.savez(directory / m.GOLDEN_FILE, **arrays)  # type: ignore[arg-type]
    versions.seal(directory)
    manifest, runtime = load(directory)
    with pytest.raises(ArtifactError, match=message):
        proving.prove(directory, manifest, runtime, [1])


class _Wrong:
    """A runtime that is right but for what the test makes wrong."""

    provider = "CPUExecutionProvider"
    device: Device = "cpu"
    variant = "fp32"

    def __init__(self, inner: OnnxRuntime, spoil: str) -> None:
        self._inner, self._spoil = inner, spoil

    def run(self, images: Images) -> Outputs:
        logits, probabilities = self._inner.run(images)
        if self._spoil == "nan":
            probabilities[-1] = np.nan
        elif self._spoil == "rows swapped":
            probabilities = np.roll(probabilities, 1, axis=0)
        elif self._spoil == "one value":
            probabilities[-1, -1] += np.float32(3e-5)
        elif self._spoil == "short":
            probabilities = probabilities[:-1]
        return Outputs(logits, probabilities)

    def trim(self) -> None:
        pass

    def close(self) -> None:
        self._inner.close()


@pytest.mark.parametrize("spoil", ["nan", "rows swapped", "one value", "short"])
def test_wrong_answers_of_a_provider_are_found(directory: Path, spoil: str) -> None:
    """NaN, mixed-up rows, a single value out of tolerance, missing rows."""
    manifest, runtime = load(directory)
    with pytest.raises(ArtifactError):
        proving.prove(directory, manifest, _Wrong(runtime, spoil), [4])


def test_a_device_without_a_tolerance_is_refused(directory: Path) -> None:
    """Nobody guesses how much a device may deviate."""
    manifest, runtime = load(directory)
    runtime.device = "tensorrt"
    with pytest.raises(ArtifactError, match="nothing for fp32 on tensorrt"):
        proving.tolerance_for(manifest, runtime)


def test_a_graph_with_other_outputs_is_refused(directory: Path) -> None:
    """The signature must be the manifest's."""
    content = versions.onnx_bytes().replace(b"probabilities", b"probabilitiez")
    (directory / m.ONNX_FILE).write_bytes(content)
    versions.seal(directory)
    with pytest.raises(ArtifactError, match="the manifest wants"):
        load(directory)


def test_a_file_that_is_no_model_is_refused(directory: Path) -> None:
    """The error of onnxruntime is passed on under the file's name."""
    (directory / m.ONNX_FILE).write_bytes(b"not a model")
    versions.seal(directory)
    with pytest.raises(ArtifactError, match=r"model\.onnx: onnxruntime cannot load it"):
        load(directory)


def test_the_bytes_loaded_are_the_bytes_hashed(directory: Path) -> None:
    """A file that is exchanged after the digests were checked is not loaded."""
    manifest, _ = m.read(directory)
    m.verify_files(directory, manifest)
    (directory / m.ONNX_FILE).write_bytes(versions.onnx_bytes(seed=1))
    with pytest.raises(ArtifactError, match="the file is not the one published"):
        OnnxRuntime(directory, manifest, intra_op_threads=1)
