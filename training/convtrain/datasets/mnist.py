"""MNIST: 70,000 handwritten digits, 28×28, light strokes on a dark ground."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import numpy.typing as npt

from convtrain import files
from convtrain.datasets import idx
from convtrain.datasets.download import fetch
from convtrain.datasets.split import Dataset, Split
from convtrain.errors import DatasetError

URL = "https://storage.googleapis.com/tensorflow/tf-keras-datasets/mnist.npz"
URL_SHA256 = "731c5ac602752760c8e48fbffcf8c3b850d9dc2a2aedcf2cc48468fc17b673d1"
LABELS = tuple("0123456789")

# (name of the IDX file, name in Keras' npz, dimensions, SHA-256 of the uncompressed IDX file)
PARTS = (
    ("train-images-idx3-ubyte", "x_train", 3, "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db"),
    ("train-labels-idx1-ubyte", "y_train", 1, "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5"),
    ("t10k-images-idx3-ubyte", "x_test", 3, "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7"),
    ("t10k-labels-idx1-ubyte", "y_test", 1, "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2"),
)


def load(path: Path | None, cache: Path, *, check_digests: bool = True) -> Dataset:
    """Load MNIST.

    Args:
        path: a directory with the four IDX files (gzipped or not) or with `mnist.npz`, or that file; None downloads it.
        cache: directory for the download.
        check_digests: refuse content other than the official one.

    Raises:
        DatasetError: a file is missing, damaged or not MNIST's; names it.
    """
    if path is None:
        path = fetch(URL, cache / "mnist.npz", URL_SHA256)
    if path.is_dir() and not (path / "mnist.npz").exists():
        arrays = [_read_idx(path, name, dimensions) for name, _, dimensions, _ in PARTS]
        sources = [str(path / name) for name, *_ in PARTS]
    else:
        file = path / "mnist.npz" if path.is_dir() else path
        arrays = _read_npz(file)
        sources = [f"{file}: {key}" for _, key, _, _ in PARTS]
    note = ""
    for array, source, (_, _, _, expected) in zip(arrays, sources, PARTS, strict=True):
        # The npz holds what the IDX files hold, so both are checked against the IDX files' digests.
        actual = hashlib.sha256(idx.pack(array)).hexdigest()
        if actual == expected:
            continue
        if check_digests:
            raise DatasetError(
                f"{source}: SHA-256 of the content is {actual}, MNIST's is {expected}; the file is damaged or another "
                "data set (--skip-digest-check takes it all the same)"
            )
        note = "Not the official content of MNIST."
    train_images, train_labels, test_images, test_labels = arrays
    train = Split(np.ascontiguousarray(train_images[..., None]), train_labels.astype(np.int64))
    test = Split(np.ascontiguousarray(test_images[..., None]), test_labels.astype(np.int64))
    return Dataset(name="mnist", labels=LABELS, train=train, test=test, note=note).checked(str(path))


def _read_idx(directory: Path, name: str, dimensions: int) -> npt.NDArray[np.uint8]:
    dotted = name.replace("-idx", ".idx")  # some copies are named so
    candidates = [directory / f"{stem}{suffix}" for stem in (name, dotted) for suffix in ("", ".gz")]
    for candidate in candidates:
        if candidate.exists():
            return idx.read(candidate, dimensions)
    raise DatasetError(
        f"{directory / name}: there is no such file, nor {name}.gz; MNIST is the four IDX files or mnist.npz "
        "(--dataset folder takes images of your own)"
    )


def _read_npz(file: Path) -> list[npt.NDArray[np.uint8]]:
    try:
        content = files.read_arrays(file, [key for _, key, _, _ in PARTS])
    except FileNotFoundError as error:
        raise DatasetError(f"{file}: there is no such file or directory") from error
    except KeyError as error:
        raise DatasetError(
            f"{file}: {error.args[0]}; wanted are the arrays x_train, y_train, x_test, y_test"
        ) from error
    except ValueError as error:
        raise DatasetError(f"{file}: damaged or cut short, {error}") from error
    arrays = list(content.values())
    for array, (_, key, dimensions, _) in zip(arrays, PARTS, strict=True):
        if array.dtype != np.uint8 or array.ndim != dimensions:
            raise DatasetError(
                f"{file}: {key} is {array.dtype} with {array.ndim} dimensions, wanted is uint8 with {dimensions}"
            )
    return arrays
