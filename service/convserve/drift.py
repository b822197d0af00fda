"""What a version is asked and what it answers, against what it was trained on: classes, confidence, and pixels.

Requests only leave their answers here, and now and then a copy of a few images; they are counted together, some hundred
requests at a time and at every scrape, with a few NumPy calls for all of them.

The population stability index compares two histograms p (now) and q (training): the sum of (p - q) · ln(p / q). By
common usage below 0.1 is stable, above 0.25 is a shift worth a look.
"""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from convserve.arrays import Images, Probabilities
from convserve.batching import Outputs
from convserve.manifest import InputStatistics

CONFIDENCE_BOUNDS = tuple(step / 20 for step in range(1, 21))
"""Upper bounds of the confidence histogram's buckets."""

_SETTLE_EVERY = 512
"""Requests that are counted together, at most."""
_SETTLE_BYTES = 4 * 2**20
"""Bytes of answers that wait until they are counted, about: large requests to a model with many classes are megabytes
each."""
_SAMPLE_EVERY = 8
"""The pixels of every so manieth request are looked at."""
_SAMPLED_IMAGES = 16
"""Images of such a request, at most; copies of them wait, so that large requests do not stay in memory."""
_WINDOW_IMAGES = 20_000
"""When so many images are in a histogram, what it holds is halved: older ones count less and less."""
_FEWEST_IMAGES = 500
"""With fewer, the index is noise and is not shown."""
_SMOOTHING = 1e-4
"""Share that an empty bin counts as, or one image in a new place would make the index infinite."""

Counts = npt.NDArray[np.float64]
T = TypeVar("T")


@dataclass(frozen=True)
class Seen:
    """What was counted so far."""

    classes: list[int]
    """Images by most probable class."""
    confidence: list[int]
    """Images by probability of that class, in the buckets of `CONFIDENCE_BOUNDS`; not cumulative."""
    confidence_sum: float
    """Sum of those probabilities."""
    stability: dict[str, float]
    """Population stability index of `image_mean`, `image_std` and `class`; empty while too few images were seen."""


class Drift:
    """Counts for one version. Thread-safe."""

    def __init__(self, training: InputStatistics) -> None:
        """Compare with the statistics in the manifest."""
        self._training = {
            "image_mean": np.array(training.image_mean_histogram),
            "image_std": np.array(training.image_std_histogram),
            "class": np.array(training.class_share),
        }
        self._now = {name: np.zeros(len(share)) for name, share in self._training.items()}
        self._classes = np.zeros(len(training.class_share), np.int64)
        self._confidence = np.zeros(len(CONFIDENCE_BOUNDS), np.int64)
        self._confidence_sum = 0.0
        self._waiting: deque[Probabilities] = deque()  # whoever answers appends, and takes no lock for it
        self._waiting_bytes = 0
        self._sampled: deque[Images] = deque()
        self._lock = threading.Lock()

    def note(self, images: Images, outputs: Outputs) -> None:
        """Take note of an answered request: uint8 [n, H, W, C] and its outputs."""
        waiting, probabilities = self._waiting, outputs.probabilities
        if not len(waiting) % _SAMPLE_EVERY:
            self._sampled.append(images[:_SAMPLED_IMAGES].copy())
        waiting.append(probabilities)
        self._waiting_bytes += probabilities.nbytes  # two threads may lose one of two; then it settles a bit later
        if len(waiting) >= _SETTLE_EVERY or self._waiting_bytes >= _SETTLE_BYTES:
            self.settle()

    def settle(self) -> None:
        """Count what waits."""
        with self._lock:
            self._waiting_bytes = 0
            waiting, sampled = _take(self._waiting), _take(self._sampled)
            if not waiting:
                return
            probabilities = np.concatenate(waiting)
            confidence = probabilities.max(axis=1)
            classes = np.bincount(probabilities.argmax(axis=1), minlength=len(self._classes))
            buckets = np.searchsorted(CONFIDENCE_BOUNDS, confidence).clip(max=len(CONFIDENCE_BOUNDS) - 1)
            self._classes += classes
            self._confidence += np.bincount(buckets, minlength=len(CONFIDENCE_BOUNDS))
            self._confidence_sum += float(confidence.sum())
            if sampled:
                pixels = np.concatenate(sampled).astype(np.float32)
                means, deviations = pixels.mean(axis=(1, 2, 3)), pixels.std(axis=(1, 2, 3))
                self._add("image_mean", np.histogram(means, len(self._now["image_mean"]), (0, 255))[0])
                self._add("image_std", np.histogram(deviations, len(self._now["image_std"]), (0, 128))[0])
            self._add("class", classes)

    def seen(self) -> Seen:
        """Everything counted so far, what waits included."""
        self.settle()
        with self._lock:
            stability = {
                name: stability_index(self._now[name], self._training[name])
                for name in self._now
                if self._now[name].sum() >= _FEWEST_IMAGES
            }
            return Seen(self._classes.tolist(), self._confidence.tolist(), self._confidence_sum, stability)

    def _add(self, name: str, counts: npt.NDArray[np.int64]) -> None:
        now = self._now[name]
        now += counts
        if now.sum() > _WINDOW_IMAGES:
            now /= 2


def _take(waiting: deque[T]) -> list[T]:
    """Take out what waits now; what others append meanwhile stays for the next time."""
    return [waiting.popleft() for _ in range(len(waiting))]


def stability_index(now: Counts, training: Counts) -> float:
    """Population stability index of a histogram of counts against one of shares; both have the same bins."""
    p, q = (np.maximum(share / share.sum(), _SMOOTHING) for share in (now, training))
    return float(np.sum((p - q) * np.log(p / q)))
