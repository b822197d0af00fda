"""Identical images are told of where they make figures look better than they are, or contradict each other."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from convserve.manifest import DecodePolicy, InputSpec
from convtrain.cli import run
from convtrain.datasets import Dataset, Split, cut_validation, duplicates, folder
from convtrain.history import Epoch, History
from convtrain.pipeline import Pipeline
from convtrain.runs import Run

NOTHING = np.arange(0)
EPOCH = Epoch(epoch=1, loss=1, accuracy=0.5, validation_loss=None, validation_accuracy=None, seconds=1)


def numbered(pixels: list[int], labels: list[int]) -> Split:
    """Images of one grey value each."""
    return Split(np.repeat(np.array(pixels, np.uint8), 4).reshape(-1, 2, 2, 1), np.array(labels, np.int64))


def test_images_in_two_splits_and_under_two_labels_are_counted() -> None:
    """A test image is spoilt by those to train on and by those to choose by; each kind has two examples."""
    train = numbered([1, 1, 2, 3], [0, 0, 0, 1])
    validation = numbered([4, 3], [0, 1])
    test = numbered([1, 1, 4, 2, 9], [0, 0, 0, 1, 1])
    found = duplicates.find(train, validation, test, ["cat", "dog"])
    assert [one.summary for one in found] == [
        "1 of 2 images to choose by are also trained on, pixel for pixel.",
        "4 of 5 test images are also trained on or chosen by, pixel for pixel.",
        "2 images are also there under another label, pixel for pixel.",
    ]
    assert [one.examples for one in found] == [
        "image 1 (dog) is image 3 (dog)",
        "image 0 (cat) is image 0 (cat); image 2 (cat) is image 0 (cat)",
        "image 2 (cat) is image 3 (dog)",
    ]


def test_copies_in_one_split_under_one_label_are_nobody_s_business() -> None:
    """They give an image more weight, as someone may want."""
    split = numbered([1, 1, 2], [0, 0, 1])
    assert duplicates.find(split, split.take(NOTHING), numbered([5], [0]), ["cat", "dog"]) == []


def test_files_are_named_and_numbers_are_the_data_set_s(image_folder: Path, tmp_path: Path) -> None:
    """Also after the validation split was cut."""
    dataset = folder.load(image_folder, "f", InputSpec(height=6, width=5, channels=3), DecodePolicy(), tmp_path)
    (found,) = duplicates.find(*cut_validation(dataset.train, 0.0, 1), dataset.test, dataset.labels)
    assert found.examples == "'test/cat/0.png' is 'train/cat/0.png'; 'test/dog/0.png' is 'train/dog/0.png'"
    cut = numbered([7, 8, 9], [0, 0, 0]).take(np.array([1, 2]))
    (found,) = duplicates.find(cut, cut.take(NOTHING), numbered([9], [0]), ["cat", "dog"])
    assert found.examples == "image 0 (cat) is image 2 (cat)"


def test_a_run_warns_of_them_and_records_them(
    image_folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """They do not end it; what becomes part of report and manifest has the sentence."""
    monkeypatch.setattr(Pipeline, "train", lambda _: History(epochs=[EPOCH], best=1))
    directory = image_folder.parent / "run"
    assert run(["train", "--data-dir", str(image_folder), "--run-dir", str(directory)]) == 0
    sentence = "2 of 2 test images are also trained on or chosen by, pixel for pixel."
    assert f"warning: {sentence} Such as 'test/cat/0.png' is 'train/cat/0.png'; " in capsys.readouterr().err
    assert Run.open(directory).record.dataset.note == sentence


def test_real_photographs_and_digits_have_none(mnist_sample: Dataset, cifar10_sample: Dataset) -> None:
    """Likeness is not identity."""
    for sample in (mnist_sample, cifar10_sample):
        assert duplicates.find(sample.train, sample.train.take(NOTHING), sample.test, sample.labels) == []
