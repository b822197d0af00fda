"""Data for the tests of training: the committed samples, in the forms that the loaders read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from convtrain.datasets import Dataset, Split, idx

DATA = Path(__file__).parents[2] / "data"


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or fills the user's cache."""
    monkeypatch.setenv("CONVTRAIN_CACHE_DIR", str(tmp_path / "cache"))


def read_sample(name: str) -> Dataset:
    """Real images: 400 of the training split, 240 of the test split."""
    with np.load(DATA / f"{name}-sample.npz") as arrays:
        return Dataset(
            name=name,
            labels=tuple(str(label) for label in arrays["label_names"]),
            train=Split(arrays["train_images"], arrays["train_labels"]),
            test=Split(arrays["test_images"], arrays["test_labels"]),
            note="a sample",
        )


@pytest.fixture
def mnist_sample() -> Dataset:
    """Real digits."""
    return read_sample("mnist")


@pytest.fixture
def cifar10_sample() -> Dataset:
    """Real photographs."""
    return read_sample("cifar10")


@pytest.fixture
def mnist_directory(tmp_path: Path, mnist_sample: Dataset) -> Path:
    """The sample of MNIST as four IDX files."""
    directory = tmp_path / "mnist"
    directory.mkdir()
    for name, array in (
        ("train-images-idx3-ubyte", mnist_sample.train.images[..., 0]),
        ("train-labels-idx1-ubyte", mnist_sample.train.labels.astype(np.uint8)),
        ("t10k-images-idx3-ubyte", mnist_sample.test.images[..., 0]),
        ("t10k-labels-idx1-ubyte", mnist_sample.test.labels.astype(np.uint8)),
    ):
        (directory / name).write_bytes(idx.pack(array))
    return directory


@pytest.fixture
def image_folder(tmp_path: Path) -> Path:
    """Two labels with three training images and one test image each: grey value 10·label + number, 6×5 pixels."""
    root = tmp_path / "folder"
    for split, count in (("train", 3), ("test", 1)):
        for index, label in enumerate(("cat", "dog")):
            (root / split / label).mkdir(parents=True)
            for number in range(count):
                pixels = np.full((6, 5, 3), 10 * index + number, np.uint8)
                Image.fromarray(pixels).save(root / split / label / f"{number}.png")
    return root
