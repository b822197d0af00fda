"""Proof that a version computes here what it computed where it was published.

The golden inputs are replayed on the real runtime in every batch size that it will compute, each row at changing places
in the batch, and the answers compared with those in the manifest's golden file. The same runs warm the runtime and
measure how long a batch takes.
"""

from __future__ import annotations

import io
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from convserve.arrays import Images, Logits, Probabilities
from convserve.batching import BatchTimes
from convserve.errors import ArtifactError
from convserve.manifest import GOLDEN_FILE, Manifest, read_file
from convserve.runtimes import Runtime

_TIMED_RUNS, _TIMED_SECONDS = 5, 0.05
"""Batches of one size that are timed, once it is warm: so many or for so long, and at least one. Serving learns on."""
_IMAGES_OF_A_TIMED_SIZE = 16
"""Where a runtime is given any size, all images are replayed in the largest one, and at least so many in a size that is
timed."""


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
        with np.load(io.BytesIO(read_file(path)), allow_pickle=False) as arrays:
            golden = GoldenVectors(arrays["image"], arrays["logits"], arrays["probabilities"])
    except Exception as error:  # NumPy, zipfile and zlib raise a dozen classes for what is no such file
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


def prove(
    directory: Path, manifest: Manifest, runtime: Runtime, batch_sizes: Sequence[int], *, any_size: bool = False
) -> BatchTimes:
    """Replay the golden vectors. Returns how long a batch takes, in seconds, for each of `batch_sizes`.

    Batches that are padded to one of a few sizes: all images in each of these. Batches of `any_size` up to the largest:
    all images in the largest, which is computed in pieces where the runtime has a `most_rows`; and in each size that
    the runtime may compute at once one batch at least, every batch of images other than those before.

    Raises:
        ArtifactError: an answer is not the published one; names the size, the image and the difference.
    """
    replay = _Replay(directory, manifest, runtime)
    if not any_size or runtime.most_rows is None:
        return BatchTimes({size: replay.time(size, replay.count) for size in sorted(batch_sizes)})
    largest = max(batch_sizes)
    at_once = range(1, min(runtime.most_rows, largest) + 1)
    times: dict[int, float] = {}
    for size in sorted({*at_once, *batch_sizes}):
        if size in batch_sizes:
            times[size] = replay.time(size, replay.count if size == largest else _IMAGES_OF_A_TIMED_SIZE)
        else:
            replay.compare(size)
    pieces = {size: seconds for size, seconds in times.items() if size <= runtime.most_rows}
    if pieces:  # a large batch ran once and may have been held up; its pieces ran several times
        scaled = BatchTimes(pieces)
        times = {size: min(seconds, scaled.predict(size)) for size, seconds in times.items()}
    return BatchTimes(times)


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


class _Replay:
    """Golden images on their way through a runtime, round and round."""

    def __init__(self, directory: Path, manifest: Manifest, runtime: Runtime) -> None:
        golden = read_golden(directory, manifest)
        self.count = len(golden.images)
        self._images, self._expected = golden.images, golden.probabilities
        self._tolerance = tolerance_for(manifest, runtime)
        self._runtime = runtime
        self._path = directory / GOLDEN_FILE
        self._next = 0

    def time(self, size: int, images: int) -> float:
        """Replay at least so many images in batches of `size`. Returns the seconds that a batch takes."""
        taken = [self.compare(size) for _ in range(-(-images // size))]
        in_pieces = self._runtime.most_rows is not None and size > self._runtime.most_rows
        warm = taken if in_pieces else taken[1:]  # the sizes of pieces came before
        while not warm or (len(warm) < _TIMED_RUNS and sum(warm) < _TIMED_SECONDS):
            warm.append(self.compare(size))
        return min(warm)

    def compare(self, size: int) -> float:
        """Run the next `size` images as a batch and compare. Returns the seconds that the runtime took.

        Raises:
            ArtifactError: an answer is not the published one.
        """
        rows = np.arange(self._next, self._next + size) % self.count
        self._next = (self._next + size) % self.count
        images, expected, tolerance = self._images[rows], self._expected[rows], self._tolerance
        began = time.perf_counter()
        outputs = self._runtime.run(images)
        taken = time.perf_counter() - began
        where = f"{self._path}: replayed on {self._runtime.provider} in batches of {size}"
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
        return taken
