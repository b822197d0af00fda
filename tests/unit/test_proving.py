"""A version that does not compute what was published never gets further than this."""

from __future__ import annotations

import io
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

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


def saved(array: np.ndarray[Any, Any]) -> bytes:
    """One array as NumPy saves it, without the archive around it."""
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


@pytest.mark.parametrize("damage", ["empty", "array", "middle"])
def test_a_golden_file_of_another_kind_is_told(directory: Path, damage: str) -> None:
    """Each of these is another class of error, of NumPy, Python or zlib."""
    path = directory / m.GOLDEN_FILE
    np.savez_compressed(path, image=np.arange(10_000))
    packed = path.read_bytes()
    middle = packed[:100] + bytes(100) + packed[200:]
    path.write_bytes({"empty": b"", "array": saved(np.zeros(3)), "middle": middle}[damage])
    with pytest.raises(ArtifactError, match="cannot be read as golden vectors"):
        proving.read_golden(directory, m.read(directory)[0])


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

    def __init__(self, inner: OnnxRuntime, spoil: str, only_in: int | None = None) -> None:
        self._inner, self._spoil, self._only_in = inner, spoil, only_in
        self.most_rows = inner.most_rows
        self.batches: list[Images] = []

    def run(self, images: Images) -> Outputs:
        self.batches.append(images)
        logits, probabilities = self._inner.run(images)
        if self._only_in not in (None, len(images)):
            return Outputs(logits, probabilities)
        if self._spoil == "nan":
            probabilities[-1] = np.nan
        elif self._spoil == "rows swapped":
            probabilities = np.roll(probabilities, 1, axis=0)
        elif self._spoil == "one value":
            probabilities[-1, -1] += np.float32(3e-5)
        elif self._spoil == "pause":
            time.sleep(0.3)
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


def test_every_size_is_proved_where_any_is_run(directory: Path) -> None:
    """All that are computed at once, and the largest with all images; times for those that were asked for."""
    manifest, inner = load(directory)
    runtime = _Wrong(inner, "nothing")
    times = proving.prove(directory, manifest, runtime, [1, 2, 4, 8, 16, 40], any_size=True)
    assert {len(images) for images in runtime.batches} == {*range(1, 17), 40}
    assert sorted(times.table()) == [1, 2, 4, 8, 16, 40]
    golden = {image.tobytes() for image in proving.read_golden(directory, manifest).images}
    largest = [images for images in runtime.batches if len(images) == 40]
    assert {image.tobytes() for images in largest for image in images} == golden


def test_one_slow_run_of_the_largest_batch_is_not_believed(directory: Path) -> None:
    """It ran once, while its pieces ran several times: admission would refuse requests for what was only a pause."""
    manifest, inner = load(directory)
    runtime = _Wrong(inner, "pause", only_in=40)
    times = proving.prove(directory, manifest, runtime, [1, 2, 4, 8, 16, 40], any_size=True)
    assert times.table()[40] == pytest.approx(times.table()[16] * 40 / 16)


@pytest.mark.parametrize("size", [1, 3, 11, 16, 40])
def test_a_size_that_computes_something_else_is_found(directory: Path, size: int) -> None:
    """Also one between those that are timed."""
    manifest, inner = load(directory)
    runtime = _Wrong(inner, "one value", only_in=size)
    with pytest.raises(ArtifactError, match=rf"in batches of {size}:"):
        proving.prove(directory, manifest, runtime, [1, 2, 4, 8, 16, 40], any_size=True)


def test_images_change_their_places(directory: Path) -> None:
    """Over all sizes every image stands at several places of a batch, and beside others."""
    manifest, inner = load(directory)
    runtime = _Wrong(inner, "nothing")
    proving.prove(directory, manifest, runtime, [1, 2, 4, 8, 16], any_size=True)
    places: dict[bytes, set[int]] = defaultdict(set)
    for images in runtime.batches:
        for place, image in enumerate(images):
            places[image.tobytes()].add(place)
    assert len(places) == manifest.golden.count
    assert min(map(len, places.values())) > 3


def test_only_sizes_that_are_padded_to_are_proved_where_batches_are_padded(directory: Path) -> None:
    """Each with all images."""
    manifest, inner = load(directory)
    runtime = _Wrong(inner, "nothing")
    proving.prove(directory, manifest, runtime, [2, 40])
    golden = {image.tobytes() for image in proving.read_golden(directory, manifest).images}
    for size in (2, 40):
        batches = [images for images in runtime.batches if len(images) == size]
        assert {image.tobytes() for images in batches for image in images} == golden
    assert {len(images) for images in runtime.batches} == {2, 40}


@pytest.mark.parametrize(("rows", "pieces"), [(16, [16]), (17, [9, 8]), (40, [14, 13, 13]), (64, [16] * 4)])
def test_a_large_batch_is_computed_in_equal_pieces(
    directory: Path, monkeypatch: pytest.MonkeyPatch, rows: int, pieces: list[int]
) -> None:
    """The answers come together in the order of the rows."""
    _, runtime = load(directory)
    seen: list[int] = []
    at_once = runtime._run_at_once

    def run(images: Images) -> Outputs:
        seen.append(len(images))
        return at_once(images)

    monkeypatch.setattr(runtime, "_run_at_once", run)
    images = versions.random_images(rows, seed=7)
    assert np.allclose(runtime.run(images).probabilities, versions.reference(images), atol=1e-6)
    assert seen == pieces


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
