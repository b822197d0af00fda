"""Counting answers, and telling when other images come than those trained on."""

from __future__ import annotations

import weakref

import numpy as np
import pytest

from convserve.batching import Outputs
from convserve.drift import Drift, stability_index
from convserve.manifest import InputStatistics


def training() -> InputStatistics:
    """Dark images of even classes."""
    mean = [0.0] * 32
    mean[4:8] = [0.16, 0.34, 0.34, 0.16]
    std = [0.0] * 32
    std[4] = 1.0
    return InputStatistics(
        channel_mean=[40.0],
        channel_std=[20.0],
        image_mean_histogram=mean,
        image_std_histogram=std,
        class_share=[0.25] * 4,
    )


def outputs(classes: np.ndarray, confidence: float) -> Outputs:
    probabilities = np.full((len(classes), 4), (1 - confidence) / 3, np.float32)
    probabilities[np.arange(len(classes)), classes] = confidence
    return Outputs(probabilities, probabilities)


def images(count: int, brightness: float, seed: int = 0) -> np.ndarray:
    """Images whose mean is about `brightness` and whose deviation is about 18."""
    rng = np.random.default_rng(seed)
    noise = rng.normal(0, 18, (count, 8, 8, 1)) + rng.uniform(brightness - 12, brightness + 12, (count, 1, 1, 1))
    return np.clip(noise, 0, 255).astype(np.uint8)


def test_every_answer_is_counted() -> None:
    """Whether the lot is full or not, a look shows all of them."""
    drift = Drift(training())
    rng = np.random.default_rng(0)
    expected = np.zeros(4, int)
    for _ in range(300):
        classes = rng.integers(0, 4, 3)
        expected += np.bincount(classes, minlength=4)
        drift.note(images(3, 48), outputs(classes, 0.9))
    seen = drift.seen()
    assert seen.classes == expected.tolist()
    assert sum(seen.confidence) == 900
    assert seen.confidence[17] == 900  # the bucket from 0.85 to 0.9
    assert seen.confidence_sum == pytest.approx(810, rel=1e-5)


def test_answers_given_during_a_look_are_counted() -> None:
    """A scrape may come at any moment; here, between looking at a request's images and keeping its answer."""
    drift = Drift(training())

    class Watched(np.ndarray):
        def copy(self, order: str = "C") -> np.ndarray:  # type: ignore[override]
            drift.seen()
            return np.array(self)

    for _ in range(3):
        drift.note(images(2, 48).view(Watched), outputs(np.array([1, 2]), 0.9))
    assert drift.seen().classes == [0, 3, 3, 0]


def test_large_answers_do_not_pile_up() -> None:
    """Many rows of many classes are megabytes; only a few of those wait to be counted."""
    drift = Drift(training())
    kept = []
    for _ in range(20):
        probabilities = np.full((2**16, 4), 0.25, np.float32)  # 1 MiB
        drift.note(images(1, 48), Outputs(probabilities, probabilities))
        kept.append(weakref.ref(probabilities))
        del probabilities
    assert sum(one() is not None for one in kept) < 8
    assert sum(drift.seen().classes) == 20 * 2**16


def test_images_like_those_trained_on_are_stable() -> None:
    """The indices stay below 0.1."""
    drift = Drift(training())
    for lot in range(40):
        drift.note(images(64, 48, lot), outputs(np.arange(64) % 4, 0.8))
        drift.settle()
    stability = drift.seen().stability
    assert set(stability) == {"image_mean", "image_std", "class"}
    assert stability["image_mean"] < 0.1
    assert stability["class"] < 0.1


def test_a_shift_is_seen_and_forgotten() -> None:
    """Bright images and a single class stand out; when the old ones come back, the index falls again."""
    drift = Drift(training())
    for lot in range(40):
        drift.note(images(64, 200, lot), outputs(np.zeros(64, int), 0.8))
        drift.settle()
    shifted = drift.seen().stability
    assert shifted["image_mean"] > 1
    assert shifted["class"] > 1
    for lot in range(4_000):
        drift.note(images(64, 48, lot % 50), outputs(np.arange(64) % 4, 0.8))
    assert drift.seen().stability["class"] < 0.05


def test_few_images_say_nothing() -> None:
    """An index of a hundred images would be noise."""
    drift = Drift(training())
    drift.note(images(100, 200), outputs(np.zeros(100, int), 0.8))
    assert drift.seen().stability == {}
    assert drift.seen().classes == [100, 0, 0, 0]


def test_the_index_is_symmetric_and_zero_for_equals() -> None:
    """By its definition."""
    p, q = np.array([10.0, 30.0, 60.0]), np.array([0.2, 0.3, 0.5])
    assert stability_index(q * 50, q) == pytest.approx(0)
    assert stability_index(p, q) == pytest.approx(stability_index(q, p))
    assert stability_index(p, q) == pytest.approx(-0.1 * np.log(0.5) + 0.1 * np.log(1.2))


def test_nothing_seen_is_fine() -> None:
    """A scrape before the first request."""
    assert Drift(training()).seen().classes == [0, 0, 0, 0]
