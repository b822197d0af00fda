"""CIFAR-10: 60,000 colour photographs, 32×32, of ten kinds of things."""

from __future__ import annotations

import functools
import io
import tarfile
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile, get_sampling

from convserve.manifest import DecodePolicy, InputSpec, sha256_file
from convtrain.datasets import batches, folder
from convtrain.datasets.download import fetch
from convtrain.datasets.split import Dataset, Split
from convtrain.errors import DatasetError

URL = "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"
SHA256 = "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce"
ARCHIVE = "cifar-10-python.tar.gz"
LABELS = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
INPUT = InputSpec(height=32, width=32, channels=3)
JPEG, SCAN = b"\xff\xd8", b"\xff\xda"
"""What a JPEG file begins with, and what its settings end with: where it has one scan, that comes nowhere later."""
SAMPLINGS = {0: "4:4:4", 1: "4:2:2", 2: "4:2:0"}
"""Pillow's numbers for how much of the colour a JPEG file keeps."""

TRAIN_BATCHES = tuple(f"cifar-10-batches-py/data_batch_{number}" for number in range(1, 6))
TEST_BATCHES = ("cifar-10-batches-py/test_batch",)
MAX_BATCH_BYTES = 64 << 20


def load(path: Path | None, cache: Path, *, check_digests: bool = True) -> Dataset:
    """Load CIFAR-10.

    Args:
        path: the official `cifar-10-python.tar.gz`, a directory that holds it, or a folder `train/<label>/…`,
            `test/<label>/…` of image files; None downloads the archive.
        cache: directory for the download, and for the decoded copy of a folder.
        check_digests: refuse an archive other than the official one. There is no official folder to compare with.

    Raises:
        DatasetError: a file is missing, damaged or not CIFAR-10's; names it.
    """
    if path is None:
        path = fetch(URL, cache / ARCHIVE, SHA256)
    if path.is_dir() and (path / ARCHIVE).exists():
        path = path / ARCHIVE
    if not path.is_dir():
        return _load_archive(path, check_digests=check_digests)
    if not (path / "train").is_dir():
        raise DatasetError(
            f"{path}: holds neither {ARCHIVE} nor the folders train/ and test/ (--dataset folder takes images of "
            "your own)"
        )
    dataset = folder.load(path, "cifar10", INPUT, DecodePolicy(), cache)
    if dataset.labels != LABELS:
        raise DatasetError(
            f"{path}: the labels are {', '.join(dataset.labels)}; CIFAR-10's are {', '.join(LABELS)} "
            "(--dataset folder takes images of your own)"
        )
    return replace(dataset, note=f"{_folder_note(path)} {dataset.note}".rstrip())


def _load_archive(path: Path, *, check_digests: bool) -> Dataset:
    if not path.exists():
        raise DatasetError(f"{path}: there is no such file or directory")
    note = ""
    if (actual := sha256_file(path)) != SHA256:
        if check_digests:
            raise DatasetError(
                f"{path}: SHA-256 is {actual}, the official archive's is {SHA256}; the file is damaged, cut short or "
                "another one (--skip-digest-check takes it all the same)"
            )
        note = "Not the official archive of CIFAR-10."
    try:
        with tarfile.open(path, "r:gz") as archive:
            train = _read_batches(archive, TRAIN_BATCHES, path)
            test = _read_batches(archive, TEST_BATCHES, path)
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        raise DatasetError(f"{path}: cannot be read, damaged or cut short ({error})") from error
    return Dataset(name="cifar10", labels=LABELS, train=train, test=test, note=note).checked(str(path))


def _read_batches(archive: tarfile.TarFile, names: tuple[str, ...], path: Path) -> Split:
    images, labels = [], []
    for name in names:
        source = f"{path}: {name}"
        try:
            member = archive.getmember(name)
        except KeyError as error:
            raise DatasetError(f"{source}: there is no such file in the archive") from error
        file = archive.extractfile(member)
        if file is None or member.size > MAX_BATCH_BYTES:
            raise DatasetError(f"{source}: not a file of a plausible size")
        rows, row_labels = batches.read(file.read(), source)
        images.append(rows.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))  # planes -> [N, 32, 32, 3]
        labels.extend(row_labels)
    return Split(np.ascontiguousarray(np.concatenate(images)), np.array(labels, np.int64))


def _folder_note(path: Path) -> str:
    """What the image files of a folder say of themselves; of JPEG's settings, those that all files share."""
    found: dict[bytes, tuple[str, str] | None] = {}
    for split in ("train", "test"):
        for file in (path / split).glob("[!.]*/[!.]*"):
            content = file.read_bytes()
            header = content.rpartition(SCAN)[0] if content.startswith(JPEG) else b""
            if header not in found:  # one program writes the same header into all files of one size
                found[header] = _encoding(content)
    encodings = set(found.values())
    lossy = [encoding for encoding in encodings if encoding is not None]
    if not lossy:
        return "From image files in a labelled folder."
    if len(lossy) < len(encodings):
        return "Partly a JPEG copy of CIFAR-10, not the original pixels."
    known = ", ".join(filter(None, (_shared(each) for each in zip(*lossy, strict=True))))
    return f"JPEG copy{f' ({known})' if known else ''} of CIFAR-10, not the original pixels."


def _encoding(content: bytes) -> tuple[str, str] | None:
    """Quality and colour sampling of a JPEG file, empty where it does not tell; None for other files."""
    with Image.open(io.BytesIO(content)) as image:
        if not isinstance(image, JpegImageFile):
            return None
        quality = _qualities().get(_key(image.quantization.values()))
        return f"quality {quality}" if quality else "", SAMPLINGS.get(get_sampling(image), "")


@functools.cache
def _qualities() -> dict[tuple[tuple[int, ...], ...], int]:
    """The quality that gives colour images these quantization tables, in libjpeg's scale that most programs use."""
    found = {}
    for quality in range(1, 101):
        file = io.BytesIO()
        Image.new("RGB", (8, 8)).save(file, "JPEG", quality=quality)
        file.seek(0)
        with JpegImageFile(file) as image:
            found[_key(image.quantization.values())] = quality
    return found


def _key(tables: Iterable[Sequence[int]]) -> tuple[tuple[int, ...], ...]:
    return tuple(map(tuple, tables))


def _shared(values: Iterable[str]) -> str:
    """What all values are; empty where they differ."""
    first, *others = set(values)
    return "" if others else first
