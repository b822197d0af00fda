"""Settings that are more than a field."""

from __future__ import annotations

import msgspec
import pytest

from convtrain.config import Loss, Schedule, Shrunk, TrainingConfig
from convtrain.presets import PRESETS


def test_label_smoothing_needs_one_hot_labels() -> None:
    """A smoothed target is no index."""
    with pytest.raises(msgspec.ValidationError, match="label_smoothing is"):
        msgspec.convert({"label_smoothing": 0.1}, Loss)
    assert msgspec.convert({"label_smoothing": 0.1, "labels": "one-hot"}, Loss).label_smoothing == 0.1


def test_the_rate_is_constant_unless_told_otherwise() -> None:
    """The textbook's training changes nothing on the way."""
    assert [Schedule().factor(step, 5) for step in range(5)] == [1.0] * 5


def test_the_rate_rises_and_falls_in_straight_lines() -> None:
    """Up to all of it where warm-up ends, down to the final share in the last step."""
    factors = [Schedule(warmup=0.4, final=0.2).factor(step, 10) for step in range(10)]
    assert factors == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 0.84, 0.68, 0.52, 0.36, 0.2])
    assert [Schedule(final=0.0).factor(step, 3) for step in range(3)] == pytest.approx([1.0, 0.5, 0.0])
    assert Schedule(final=0.0).factor(0, 1) == 1.0


def test_images_grow_in_the_stages_that_are_given() -> None:
    """Each stage ends with the last epoch of its share; what is left sees whole images."""
    config = TrainingConfig(
        epochs=8,
        batch_size=1,
        validation_fraction=0,
        progressive_resizing=(Shrunk(until=0.25, scale=0.5), Shrunk(until=0.6, scale=0.75)),
    )
    assert [config.image_scale(epoch) for epoch in range(1, 9)] == [0.5] * 2 + [0.75] * 3 + [1.0] * 3
    assert msgspec.structs.replace(config, progressive_resizing=()).image_scale(1) == 1.0
    fields = msgspec.to_builtins(config) | {"progressive_resizing": [{"until": 0.5, "scale": 0.5}] * 2}
    with pytest.raises(
        msgspec.ValidationError, match=r"progressive_resizing ends at \[0\.5, 0\.5\]; each stage ends after"
    ):
        msgspec.convert(fields, TrainingConfig)


def test_mixed_images_need_one_hot_labels() -> None:
    """A mixed image belongs to two classes, which one number cannot say."""
    preset = PRESETS["cifar10-simple"].training
    mixed = {**msgspec.to_builtins(preset), "augmentation": {"cutmix": 0.5}}
    assert preset.loss.labels == "sparse"
    with pytest.raises(msgspec.ValidationError, match=r"augmentation.cutmix is 0.5; it needs loss.labels = 'one-hot'"):
        msgspec.convert(mixed, TrainingConfig)
