"""Any folder of labelled images: `train/<label>/*.png` and `test/<label>/*.png`, or `<label>/*.png` alone."""

from __future__ import annotations

import hashlib
import json
import os
import stat
import unicodedata
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import numpy as np

from convserve.arrays import Images
from convserve.errors import InvalidRequestError
from convserve.images import decode
from convserve.manifest import DecodePolicy, InputSpec
from convtrain import files, progress
from convtrain.datasets.split import Dataset, Split, stratified
from convtrain.errors import DatasetError

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp"})
MAX_PIXELS = 100_000_000
TEST_SHARE = 0.2
"""Share of each label's images that is held out to test on, where the folder itself does not divide them."""
NOT_IN_LABELS = frozenset({"Cc", "Cs", "Zl", "Zp"})
"""Unicode's categories of control characters, bytes that are no UTF-8, and separators of lines and paragraphs."""
NAMED = 5
"""Folders that a note names."""
DECODER = 1
"""Raised when decoding changes, so that cached pixels are made anew."""


def load(root: Path, name: str, spec: InputSpec, policy: DecodePolicy, cache: Path) -> Dataset:
    """Load a folder. Classes are the names of the labels' folders, sorted; images are in the order of their names.

    Where `train` and `test` are not there, or are labels among others, each label gives a fifth of its images for the
    test split, always the same ones.

    Every image is decoded by the code that the server runs, with the same policy, so training sees what serving will
    see. The decoded pixels are kept in `cache` until a file of the folder changes, if it can be written.

    Args:
        root: the folder that holds `train` and `test`, or the labels' folders.
        name: name for the manifest.
        spec: size and channels that every image is brought to.
        policy: how.
        cache: directory for the decoded copy.

    Raises:
        DatasetError: a folder is missing or empty, the labels of `train` and `test` differ, or a file is not a readable
            image; names it.
    """
    labels, train_paths, test_paths = _list_splits(root)
    note = f"Test split: {TEST_SHARE:.0%} of the images of each label, held out."
    if _is_divided(root):
        others = sorted(ascii(folder.name) for folder in _folders(root) if folder.name not in ("train", "test"))
        note = ""
        if others:  # such as `val`
            more = f" and {len(others) - NAMED} more" if len(others) > NAMED else ""
            note = f"Not used, being neither train nor test: {', '.join(others[:NAMED])}{more}."
            progress.console.print(f"warning: {root}: {note} Images to validate on are cut from train.")
    if len(labels) < 2:
        raise DatasetError(f"{root}: only the label {labels[0]}; a classifier needs at least two")
    # What was decoded, from which files, how: two sets with the same fingerprint have the same pixels.
    content = _fingerprint([*train_paths, *test_paths], root, spec, policy)
    place = hashlib.sha256(os.fsencode(root.resolve())).hexdigest()[:16]
    cached = cache / f"folder-{place}-{spec.height}x{spec.width}x{spec.channels}.npz"
    images = _read_cached(cached, content, len(train_paths) + len(test_paths), spec)
    if images is None:
        images = _decode([*train_paths, *test_paths], spec, policy)
        try:
            files.write_arrays(cached, {"fingerprint": np.array(content), "images": images})
        except OSError as error:  # what was decoded is worth more than the copy
            reason = error.strerror or error
            progress.console.print(f"{cached}: cannot be written ({reason}); next time the images are decoded anew")
    train_count = len(train_paths)
    indices = {label: index for index, label in enumerate(labels)}
    classes = np.array([indices[path.parent.name] for path in [*train_paths, *test_paths]], np.int64)
    names = np.array([str(path.relative_to(root)) for path in [*train_paths, *test_paths]], object)
    return Dataset(
        name=name,
        labels=tuple(labels),
        train=Split(images[:train_count], classes[:train_count], names[:train_count]),
        test=Split(images[train_count:], classes[train_count:], names[train_count:]),
        note=note,
    )


def _is_divided(root: Path) -> bool:
    """Whether `train` and `test` are splits; beside other folders they may be labels, which hold no folders."""
    if not root.is_dir():
        return False
    found = _folders(root)
    splits = [folder for folder in found if folder.name in ("train", "test")]
    return bool(splits) and (splits == found or any(map(_folders, splits)))


def _folders(directory: Path) -> list[Path]:
    return [entry for entry in directory.iterdir() if not entry.name.startswith(".") and entry.is_dir()]


def _list_splits(root: Path) -> tuple[list[str], list[Path], list[Path]]:
    """Labels, and the image files to train and to test on."""
    if _is_divided(root):
        labels, train = _list(root / "train", root)
        test_labels, test = _list(root / "test", root)
        if test_labels != labels:
            differing = ", ".join(sorted(set(labels) ^ set(test_labels)))
            raise DatasetError(f"{root}: train and test must have the same labels; only one of them has {differing}")
        return labels, train, test
    labels, paths = _list(root, root)
    numbers = {label: index for index, label in enumerate(labels)}
    classes = np.array([numbers[path.parent.name] for path in paths], np.int64)
    held_out = set(stratified(classes, round(TEST_SHARE * len(paths)), seed=0).tolist())
    train = [path for index, path in enumerate(paths) if index not in held_out]
    test = [paths[index] for index in sorted(held_out)]
    if missing := set(labels) - {path.parent.name for path in train}:
        raise DatasetError(f"{root / min(missing)}: holds too few images to train and to test on")
    if not test:
        raise DatasetError(f"{root}: holds {len(paths)} images, too few to hold out a fifth of them to test on")
    return labels, train, test


def _list(split: Path, root: Path) -> tuple[list[str], list[Path]]:
    """Labels and image files of `train` or `test`, both sorted."""
    if not split.is_dir():
        raise DatasetError(
            f"{split}: there is no such folder; wanted are {root}/train/<label>/… and {root}/test/<label>/…, the test "
            f"images being others than those trained on, or {root}/<label>/… alone"
        )
    labels = sorted(entry.name for entry in split.iterdir() if not entry.name.startswith("."))
    if not labels:
        raise DatasetError(f"{split}: is empty; wanted is one folder of images for each label")
    paths = []
    for label in labels:
        if any(unicodedata.category(character) in NOT_IN_LABELS for character in label):
            raise DatasetError(
                f"{split}: the folder {label!r} cannot be a label; wanted is UTF-8 without line breaks or other "
                "control characters"
            )
        if not (split / label).is_dir():
            raise DatasetError(f"{split / label}: is not a folder; wanted is one folder of images for each label")
        found = sorted(entry for entry in (split / label).iterdir() if not entry.name.startswith("."))
        if not found:
            raise DatasetError(f"{split / label}: holds no images")
        for path in found:
            if path.suffix.lower() not in SUFFIXES:
                raise DatasetError(f"{path}: not an image file; accepted are {', '.join(sorted(SUFFIXES))}")
        paths.extend(found)
    return labels, paths


def _fingerprint(paths: Sequence[Path], root: Path, spec: InputSpec, policy: DecodePolicy) -> str:
    """Digest of the files' names, sizes and times of change, and of how they are decoded."""
    sha256 = hashlib.sha256(json.dumps([DECODER, msgspec.to_builtins(spec), msgspec.to_builtins(policy)]).encode())
    for path in paths:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):  # a pipe would be waited for
            raise DatasetError(f"{path}: is no file; wanted are image files in the folder of each label")
        sha256.update(os.fsencode(f"{path.relative_to(root)}\0{status.st_size}\0{status.st_mtime_ns}\n"))
    return sha256.hexdigest()


def _read_cached(cached: Path, fingerprint: str, count: int, spec: InputSpec) -> Images | None:
    """The decoded pixels, unless they are not there, of other files, or damaged."""
    try:
        # Both at once: another process may put a copy of other files, or decoded in another way, into this one's place.
        found = files.read_arrays(cached, ["fingerprint", "images"])
    except (OSError, ValueError, KeyError):
        return None
    images: Images = found["images"]
    if str(found["fingerprint"]) != fingerprint:
        return None
    return images if images.shape == (count, *spec.shape) and images.dtype == np.uint8 else None


def _decode(paths: Sequence[Path], spec: InputSpec, policy: DecodePolicy) -> Images:
    """Decode all files: uint8 [N, height, width, channels]."""

    def read(path: Path) -> Images:
        try:
            return decode(path.read_bytes(), spec, policy, max_pixels=MAX_PIXELS, field=str(path)).pixels
        except (InvalidRequestError, OSError) as error:
            raise DatasetError(str(error)) from error

    images = np.empty((len(paths), *spec.shape), np.uint8)
    # Pillow decodes outside the interpreter lock.
    with ThreadPoolExecutor() as pool, progress.bar("decode images", len(paths)) as advance:
        for start in range(0, len(paths), 256):
            for offset, pixels in enumerate(pool.map(read, paths[start : start + 256])):
                images[start + offset] = pixels
            advance(min(256, len(paths) - start))
    return images
