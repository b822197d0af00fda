"""MNIST comes from IDX files or from Keras' npz, and only the real content passes without a word."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

from convtrain.datasets import Dataset, idx, mnist
from convtrain.errors import DatasetError

FULL = Path(__file__).parents[5] / "shared/data/mnist"


def write_npz(path: Path, sample: Dataset) -> None:
    np.savez(
        path,
        x_train=sample.train.images[..., 0],
        y_train=sample.train.labels.astype(np.uint8),
        x_test=sample.test.images[..., 0],
        y_test=sample.test.labels.astype(np.uint8),
    )


def test_idx_gzipped_idx_and_npz_give_the_same(tmp_path: Path, mnist_directory: Path, mnist_sample: Dataset) -> None:
    """The form of the files makes no difference."""
    zipped = tmp_path / "zipped"
    zipped.mkdir()
    for path in mnist_directory.iterdir():
        (zipped / f"{path.name.replace('-idx', '.idx')}.gz").write_bytes(gzip.compress(path.read_bytes()))
    write_npz(tmp_path / "mnist.npz", mnist_sample)
    for source in (mnist_directory, zipped, tmp_path, tmp_path / "mnist.npz"):
        loaded = mnist.load(source, tmp_path, check_digests=False)
        assert loaded.train.digest() == mnist_sample.train.digest()
        assert loaded.test.digest() == mnist_sample.test.digest()
        assert loaded.labels == tuple("0123456789")


def test_other_content_is_refused_unless_wanted(mnist_directory: Path, tmp_path: Path) -> None:
    """Content that is not MNIST's names the file; taken on purpose, the note says so."""
    with pytest.raises(DatasetError, match=r"train-images-idx3-ubyte: SHA-256 of .* \(--skip-digest-check"):
        mnist.load(mnist_directory, tmp_path)
    assert mnist.load(mnist_directory, tmp_path, check_digests=False).note == "Not the official content of MNIST."


def test_a_missing_file_is_named(mnist_directory: Path, tmp_path: Path) -> None:
    """The message says which of the four is missing."""
    (mnist_directory / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(DatasetError, match="t10k-labels-idx1-ubyte: there is no such file"):
        mnist.load(mnist_directory, tmp_path, check_digests=False)


def test_labels_must_match_the_images(mnist_directory: Path, tmp_path: Path) -> None:
    """A wrong count and a label that is no digit are errors."""
    path = mnist_directory / "train-labels-idx1-ubyte"
    labels = idx.read(path, 1).copy()
    path.write_bytes(idx.pack(labels[:-1]))
    with pytest.raises(DatasetError, match="400 images and 399 labels"):
        mnist.load(mnist_directory, tmp_path, check_digests=False)
    labels[7] = 10
    path.write_bytes(idx.pack(labels))
    with pytest.raises(DatasetError, match="label 10 of training image 7 is not one of"):
        mnist.load(mnist_directory, tmp_path, check_digests=False)


def test_a_bad_npz_is_named(tmp_path: Path, mnist_sample: Dataset) -> None:
    """Cut short, without an array, of another type, or not there."""
    path = tmp_path / "mnist.npz"
    write_npz(path, mnist_sample)
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(DatasetError, match=r"mnist\.npz: damaged or cut short"):
        mnist.load(path, tmp_path)
    np.savez(path, x_train=np.zeros((2, 28, 28), np.uint8))
    with pytest.raises(DatasetError, match=r"mnist\.npz: .*y_train"):
        mnist.load(path, tmp_path)
    arrays = dict.fromkeys(("x_train", "y_train", "x_test", "y_test"), np.zeros((2, 28, 28)))
    np.savez(path, allow_pickle=False, **arrays)
    with pytest.raises(DatasetError, match="x_train is float64 with 3 dimensions"):
        mnist.load(path, tmp_path)
    with pytest.raises(DatasetError, match="there is no such file"):
        mnist.load(tmp_path / "other.npz", tmp_path)


@pytest.mark.full_data
@pytest.mark.skipif(not FULL.exists(), reason="the full MNIST is not at ../shared/data/mnist")
def test_the_real_files_pass(tmp_path: Path) -> None:
    """The official digests are those of the official content."""
    dataset = mnist.load(FULL, tmp_path)
    assert (len(dataset.train), len(dataset.test), dataset.note) == (60_000, 10_000, "")
