"""A variant is published where it is faster and as good, and nowhere else."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from convserve.manifest import VariantTrial
from convtrain import latency, quantize
from convtrain.datasets import Dataset
from convtrain.errors import ExportError
from convtrain.predictions import Predictions
from convtrain.runs import Data
from convtrain.variants import golden_tolerance, judge, try_variants

GOOD = VariantTrial(
    published=False,
    verdict="",
    accuracy=0.9,
    validation_loss_points=0.3,
    test_loss_points=0.3,
    max_abs_diff_probabilities=1e-6,
    speedup={"1": 1.1, "64": 1.06},
    load_speedup=1.3,
    bytes=1,
    processor="",
)


@pytest.mark.parametrize(
    ("variant", "changes", "why"),
    [
        ("int8", {}, ""),
        ("int8", {"load_speedup": 0.1, "max_abs_diff_probabilities": 0.2}, ""),
        ("int8", {"validation_loss_points": None}, ""),
        ("int8", {"validation_loss_points": -1.0, "test_loss_points": -1.0}, ""),
        ("int8", {"validation_loss_points": 0.31}, "loses 0.31 points on the validation split, 0.3 are accepted"),
        ("int8", {"test_loss_points": 0.4}, "loses 0.40 points on the test split"),
        ("int8", {"speedup": {"1": 1.04, "64": 2.0}}, "not faster: 1.04 times as fast"),
        ("int8", {"speedup": {"1": 2.0, "64": 0.7}}, "not faster: 0.70 times as fast"),
        ("optimized", {}, ""),
        ("optimized", {"speedup": {"1": 0.96, "64": 1.0}}, ""),
        ("optimized", {"load_speedup": 1.1}, "loads 1.10 times as fast, 1.2 is wanted"),
        ("optimized", {"speedup": {"1": 0.9, "64": 1.0}}, "slower: 0.90 times as fast"),
        ("optimized", {"max_abs_diff_probabilities": 1e-3}, "a probability differs by 0.001"),
    ],
)
def test_the_rules(variant: str, changes: dict[str, Any], why: str) -> None:
    """int8: 5 % faster in every batch size, at most 0.3 points lost. Optimised: the same answers, loaded faster."""
    verdict = judge(variant, msgspec.structs.replace(GOOD, **changes))
    assert verdict.startswith(why)
    assert bool(verdict) == bool(why)


def test_the_tolerance_of_int8_leaves_room_and_not_much() -> None:
    """Half as much again as was measured, and a hundredth."""
    one, other = (np.array([[0.5, 0.5]], np.float32), np.array([[0.4, 0.6]], np.float32))
    assert golden_tolerance(Predictions(one, one), Predictions(one, other)) == pytest.approx(0.16)


def test_what_takes_longer_is_measured_to_take_longer() -> None:
    """Forms take turns; the figures are seconds for one run of each."""

    class Fake:
        def __init__(self, work: int) -> None:
            self.work = work
            self.sizes: set[int] = set()

        def run(self, _: list[str], inputs: dict[str, Any]) -> None:
            self.sizes.add(len(inputs["image"]))
            sum(range(self.work))

    quick, slow = Fake(1_000), Fake(100_000)
    found = latency.compare_runs({"quick": quick, "slow": slow}, np.zeros((5, 2, 2, 1), np.uint8), (1, 8), rounds=3)
    assert quick.sizes == slow.sizes == {1, 8}
    assert all(0 < 10 * found["quick"][size] < found["slow"][size] < 1 for size in (1, 8))


@pytest.mark.training
@pytest.mark.parametrize(
    ("error", "why"),
    [
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), "No space left on device"),
        (RuntimeError("Protobuf serialization failed.\nmore"), "Protobuf serialization failed."),
    ],
)
def test_a_full_disk_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mnist_sample: Dataset, error: Exception, why: str
) -> None:
    """With the directory, and what is left: nothing. Where onnxruntime writes the error is its own."""

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(quantize, "write_int8", fail)
    data = Data(mnist_sample, mnist_sample.train, mnist_sample.test)
    with pytest.raises(ExportError, match=rf"variants: the variants cannot be made \({why}\); none was"):
        try_variants(tmp_path, tmp_path / "variants", data, seed=1)
    assert list((tmp_path / "variants").iterdir()) == []
