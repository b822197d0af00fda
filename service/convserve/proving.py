"""Proof that a version computes here what it computed where it was published.

The golden inputs are replayed on the real runtime in every batch size that will be run, each row at changing places in
the batch, and the answers compared with those in the manifest's golden file. The same runs warm the runtime and measure
how long a batch takes.
"""

from __future__ import annotations

import io
import time
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from convserve.arrays import Images, Logits, Probabilities
from convserve.batching import BatchTimes
from convserve.errors import ArtifactError
from convserve.manifest import GOLDEN_FILE, Manifest
from convserve.runtimes import Runtime

_TIMED_RUNS, _TIMED_SECONDS = 5, 0.1
"""Batches of one size that are timed, once it is warm: so many or for so long, and at least one. Serving learns on."""


class GoldenVectors(NamedTuple):
    """Real inputs and the outputs they must give, row for row."""

    images: Images
    logits: Logits
    probabilities: Probabilities


def read_golden(directory: Path, manifest: Manifest) -> GoldenVectors:
    """Read the golden file of a version whose digests were verified.

    Raises:
        ArtifactError: arrays are missing, or have other shapes or types than the manifest says.
    """
    path = directory / GOLDEN_FILE
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as arrays:
            golden = GoldenVectors(arrays["image"], arrays["logits"], arrays["probabilities"])
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise ArtifactError(f"{path}: cannot be read as golden vectors: {error}") from error
    count, classes = manifest.golden.count, len(manifest.labels)
    wanted = [
        (np.dtype(np.uint8), (count, *manifest.input.shape)),
        (np.dtype(np.float32), (count, classes)),
        (np.dtype(np.float32), (count, classes)),
    ]
    actual = [(array.dtype, array.shape) for array in golden]
    if actual != wanted:
        raise ArtifactError(f"{path}: holds {actual}; the manifest wants {wanted}")
    return golden


def prove(directory: Path, manifest: Manifest, runtime: Runtime, batch_sizes: Sequence[int]) -> BatchTimes:
    """Replay the golden vectors in every batch size. Returns how long each size takes, in seconds.

    Raises:
        ArtifactError: an answer is not the published one; names the size, the image and the difference.
    """
    golden = read_golden(directory, manifest)
    tolerance = tolerance_for(manifest, runtime)
    return BatchTimes({size: _replay(directory, golden, runtime, size, tolerance) for size in sorted(batch_sizes)})


def tolerance_for(manifest: Manifest, runtime: Runtime) -> float:
    """Largest difference of a probability that is accepted of this runtime.

    Raises:
        ArtifactError: the manifest does not say.
    """
    tolerances = manifest.golden.tolerances
    same_arithmetic = runtime.variant in ("fp32", "optimized", "saved_model")
    for kind in (f"{runtime.variant}-{runtime.device}", runtime.device if same_arithmetic else runtime.variant):
        if kind in tolerances:
            return tolerances[kind]
    raise ArtifactError(
        f"{manifest.model} version {manifest.version}: manifest.golden.tolerances has {sorted(tolerances)} and nothing"
        f" for {runtime.variant} on {runtime.device}"
    )


def _replay(directory: Path, golden: GoldenVectors, runtime: Runtime, size: int, tolerance: float) -> float:
    """Run all golden images in batches of `size` and compare. Returns the seconds that a batch takes."""
    count = len(golden.images)
    taken: list[float] = []
    for start in range(0, count, size):
        rows = np.arange(start, start + size) % count
        images = golden.images[rows]
        began = time.perf_counter()
        outputs = runtime.run(images)
        taken.append(time.perf_counter() - began)
        expected = golden.probabilities[rows]
        where = f"{directory / GOLDEN_FILE}: replayed on {runtime.provider} in batches of {size}"
        if outputs.probabilities.shape != expected.shape:
            raise ArtifactError(f"{where}: probabilities are {outputs.probabilities.shape}, expected {expected.shape}")
        difference = np.abs(outputs.probabilities - expected)
        # Written so that NaN fails too.
        bad = ~(difference <= tolerance)
        if bad.any():
            at = tuple(np.argwhere(bad)[0])
            raise ArtifactError(
                f"{where}: image {rows[at[0]]}, class {at[1]}: probability is {outputs.probabilities[at]:.8f}, the"
                f" published one is {expected[at]:.8f}; the tolerance is {tolerance:g}"
            )
        two_best = np.sort(expected, axis=1)[:, -2:]
        wrong = (outputs.probabilities.argmax(1) != expected.argmax(1)) & (two_best[:, 1] - two_best[:, 0] > tolerance)
        if wrong.any():
            raise ArtifactError(f"{where}: image {rows[int(wrong.argmax())]} has another most probable class")
    warm = taken[1:]
    while not warm or (len(warm) < _TIMED_RUNS and sum(warm) < _TIMED_SECONDS):
        began = time.perf_counter()
        runtime.run(images)
        warm.append(time.perf_counter() - began)
    return min(warm)
