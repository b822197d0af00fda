"""Drawings say what the figures say."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from convtrain import feature_maps
from convtrain.calibration import Bin
from convtrain.feature_maps import FeatureMaps
from convtrain.report import figures, page
from convtrain.report.content import Mistake

pytestmark = pytest.mark.training


def words(svg: str) -> list[str]:
    """What stands in a drawing."""
    return [text.strip() for text in re.findall(r"<text[^>]*>(.*?)</text>", svg, flags=re.S)]


def test_the_axis_of_accuracies_has_true_numbers() -> None:
    """Every number below it is the place it stands at, however close together the classes are."""
    found = words(figures.per_class({"a": 0.993, "b": 1.0, "c": 0.9956}, 0.9961))
    assert {"a", "b", "c", "99.3 %", "99.6 %", "100.0 %", "all 99.61 %", "99.4", "99.6", "99.8"} <= set(found)


def test_an_interval_is_wilsons() -> None:
    """4 of 5 right: 37.6 to 96.4 %; 5 of 5 are no proof."""
    middle, half = figures.wilson(np.array([0.8, 1.0]), np.array([5.0, 5.0]))
    np.testing.assert_allclose(middle - half, [0.3755, 0.5655], atol=1e-4)
    np.testing.assert_allclose(middle + half, [0.9638, 1.0], atol=1e-4)
    bins = [Bin(images=5, confidence=0.7, accuracy=0.8)]
    assert "as served, ECE 1.00 %" in words(figures.reliability(bins, bins, 0.2, 0.01))


def test_a_mistake_is_never_certain() -> None:
    """A probability that rounds to 100 % is not told as such, and a digit is told from it."""
    mistake = Mistake(image=0, label="9", predicted="4", probability=0.99999, label_probability=0.0)
    found = words(figures.mistakes([mistake], np.zeros((1, 8, 8, 1), np.uint8)))
    assert sorted(found) == ["4, &gt;99.9 %", "is 9"]


def test_labels_are_no_formulas() -> None:
    """Folders are called what they are called."""
    found = words(figures.confusion([[1, 0], [0, 1]], ["$5_$", "a^$b$"]))
    assert found.count("$5_$") == 2


def test_labels_of_any_length_and_language_are_drawn() -> None:
    """Without a warning, which would be an error here: of a letter that no font here has, or of no place left."""
    labels = ["日本語🙂", "w" * 255, "<b>&"]
    for svg in (
        figures.confusion(np.eye(3, dtype=int).tolist(), labels),
        figures.per_class(dict.fromkeys(labels, 0.5), 0.5),
    ):
        assert {"日本語🙂", "&lt;b&gt;&amp;"} <= set(words(svg))
        assert any(word.endswith("w…") for word in words(svg))


@pytest.mark.parametrize(("channels", "maps"), [(5, 5), (24, 24), (64, 32)])
def test_two_rows_of_channels_at_most_are_drawn(channels: int, maps: int) -> None:
    """The title says how many of how many."""
    values = np.random.default_rng(0).random((1, 6, 6, channels), np.float32)
    svg = figures.feature_maps(np.zeros((8, 8, 3), np.uint8), [FeatureMaps("convolution 1", values)])
    assert f"convolution 1: {maps} of {channels} channels, 6×6" in words(svg)
    assert svg.count("<image") == 1 + maps


@pytest.mark.parametrize(("count", "told"), [(8, "The 8 filters of"), (65, "The first 64 of the 65 filters of")])
def test_filters_that_are_not_drawn_are_not_announced(
    count: int, told: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The text counts what the picture shows."""
    kernels = np.ones((count, 3, 3, 1), np.float32)
    monkeypatch.setattr(feature_maps, "first_filters", lambda path: kernels)
    monkeypatch.setattr(feature_maps, "compute", lambda path, images: [])
    monkeypatch.setattr(figures, "feature_maps", lambda sample, found: "")
    images = np.zeros((2, 8, 8, 1), np.uint8)
    assert told in page._inside(images, tmp_path)
