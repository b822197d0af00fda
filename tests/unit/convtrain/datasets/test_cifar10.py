"""CIFAR-10's archive is read without running what is in it."""

from __future__ import annotations

import io
import os
import pickle
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from convserve.arrays import Images
from convtrain.datasets import Dataset, Split, batches, cifar10
from convtrain.errors import DatasetError


def python2_pickle(batch: dict[bytes, Any]) -> bytes:
    """A pickle as the archive has it: written by Python 2, whose strings are today's bytes."""
    return pickle.dumps(batch, protocol=2, fix_imports=True)


def batch_of(split: Split) -> bytes:
    rows = split.images.transpose(0, 3, 1, 2).reshape(len(split), 3072)
    return python2_array_pickle(rows, split.labels.tolist())


def python2_array_pickle(rows: Images, labels: list[int]) -> bytes:
    """Protocol 2 opcodes for {b"data": array, b"labels": labels}, with byte strings as Python 2 wrote them."""

    def text(value: bytes) -> bytes:
        return b"T" + len(value).to_bytes(4, "little") + value

    def integer(value: int) -> bytes:
        return b"J" + value.to_bytes(4, "little", signed=True)

    dtype = (
        b"cnumpy\ndtype\n" + text(b"u1") + integer(0) + integer(1) + b"\x87R"
        b"(" + integer(3) + text(b"|") + b"NNN" + integer(-1) + integer(-1) + integer(0) + b"tb"
    )
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n" + integer(0) + b"\x85" + text(b"b") + b"\x87R"
        b"("
        + integer(1)
        + integer(rows.shape[0])
        + integer(rows.shape[1])
        + b"\x86"
        + dtype
        + b"\x89"
        + text(rows.tobytes())
        + b"tb"
    )
    items = text(b"data") + array + text(b"labels") + b"](" + b"".join(map(integer, labels)) + b"e"
    return b"\x80\x02}(" + items + b"u."


def write_archive(path: Path, members: dict[str, bytes]) -> None:
    with tarfile.open(path, "w:gz") as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


@pytest.fixture
def members(cifar10_sample: Dataset) -> dict[str, bytes]:
    train = cifar10_sample.train
    parts = [Split(train.images[start::5], train.labels[start::5]) for start in range(5)]
    named = dict(zip(cifar10.TRAIN_BATCHES, map(batch_of, parts), strict=True))
    return named | {cifar10.TEST_BATCHES[0]: batch_of(cifar10_sample.test)}


def test_the_archive_gives_its_images(tmp_path: Path, members: dict[str, bytes], cifar10_sample: Dataset) -> None:
    """Batches are read in order, planes become channels; the file and its directory both work."""
    write_archive(tmp_path / cifar10.ARCHIVE, members)
    for source in (tmp_path, tmp_path / cifar10.ARCHIVE):
        loaded = cifar10.load(source, tmp_path, check_digests=False)
        assert loaded.test.digest() == cifar10_sample.test.digest()
        np.testing.assert_array_equal(loaded.train.images[80], cifar10_sample.train.images[1])
        assert loaded.labels == cifar10_sample.labels
        assert loaded.note == "Not the official archive of CIFAR-10."


def test_another_archive_is_refused(tmp_path: Path, members: dict[str, bytes]) -> None:
    """The digest of the official archive is the only one that passes."""
    write_archive(tmp_path / cifar10.ARCHIVE, members)
    with pytest.raises(DatasetError, match=r"cifar-10-python\.tar\.gz: SHA-256 is"):
        cifar10.load(tmp_path, tmp_path)


def test_a_damaged_archive_is_named(tmp_path: Path, members: dict[str, bytes]) -> None:
    """Cut short, without a batch, no archive at all, or not there."""
    path = tmp_path / cifar10.ARCHIVE
    write_archive(path, members)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DatasetError, match="damaged or cut short"):
        cifar10.load(path, tmp_path, check_digests=False)
    path.write_bytes(b"no archive")
    with pytest.raises(DatasetError, match="damaged or cut short"):
        cifar10.load(path, tmp_path, check_digests=False)
    del members["cifar-10-batches-py/data_batch_4"]
    write_archive(path, members)
    with pytest.raises(DatasetError, match="data_batch_4: there is no such file in the archive"):
        cifar10.load(path, tmp_path, check_digests=False)
    with pytest.raises(DatasetError, match="there is no such file"):
        cifar10.load(tmp_path / "other.tar.gz", tmp_path)


class Malicious:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("made-by-a-pickle",)


@pytest.mark.parametrize(
    "content",
    [
        pickle.dumps({b"data": Malicious(), b"labels": []}),
        pickle.dumps(Malicious(), protocol=0),
        b"cbuiltins\neval\n(Vprint\ntR.",
        b"cnumpy\nload\n(Vfile\ntR.",
        b"\x80\x04\x8c\x05numpy\x8c\x0dndarray.dumps\x93.",
    ],
)
def test_a_pickle_that_asks_for_more_is_refused(
    content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing in the file runs, whatever it names."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DatasetError, match=r"evil: asks for .* holds plain data only"):
        batches.read(content, "evil")
    assert not (tmp_path / "made-by-a-pickle").exists()


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "not a readable pickle"),
        (b"\x80\x02}", "not a readable pickle"),
        (pickle.dumps([1, 2]), "not a batch of CIFAR-10"),
        (pickle.dumps({b"data": b"x", b"labels": []}), "`data` is not an array of uint8"),
        (python2_array_pickle(np.zeros((2, 5), np.uint8), [0, 1]), "rows of 3072"),
        (python2_array_pickle(np.zeros((2, 3072), np.uint8), [0]), "2 images and 1 labels"),
    ],
)
def test_a_wrong_batch_is_named(content: bytes, why: str) -> None:
    """Every kind of damage is an error with the name of the batch."""
    with pytest.raises(DatasetError, match=f"batch_1: .*{why}"):
        batches.read(content, "batch_1")


def test_a_huge_array_is_not_allocated() -> None:
    """The shape in a damaged pickle is checked against the bytes that come with it."""
    content = python2_array_pickle(np.zeros((1, 3072), np.uint8), [0])
    huge = content.replace(b"J\x01\x00\x00\x00J\x00\x0c\x00\x00", b"J\xff\xff\xff\x7fJ\x00\x0c\x00\x00")
    assert huge != content
    with pytest.raises(DatasetError, match="not a readable pickle"):
        batches.read(huge, "batch_1")


def write_folder(root: Path, labels: tuple[str, ...], suffix: str, **form: Any) -> None:
    for split in ("train", "test"):
        for index, label in enumerate(labels):
            (root / split / label).mkdir(parents=True)
            Image.new("RGB", (32, 32), (index, 0, 0)).save(root / split / label / f"0.{suffix}", **form)


def test_a_jpeg_folder_says_so(tmp_path: Path) -> None:
    """The note tells that these are not the original pixels."""
    write_folder(tmp_path / "cifar10", cifar10.LABELS, "jpg")
    loaded = cifar10.load(tmp_path / "cifar10", tmp_path)
    assert loaded.note == "JPEG copy (quality 75, 4:2:0) of CIFAR-10, not the original pixels."
    assert loaded.name == "cifar10"
    assert loaded.train.labels.tolist() == list(range(10))


@pytest.mark.parametrize(
    ("suffix", "form", "another", "note"),
    [
        ("jpg", {"quality": 90, "subsampling": 0}, {}, "JPEG copy (quality 90, 4:4:4) of CIFAR-10, "),
        ("JPEG", {}, {"quality": 30, "subsampling": 2}, "JPEG copy (4:2:0) of CIFAR-10, "),
        ("jpg", {"qtables": [[9] * 64, [8] * 64]}, {}, "JPEG copy (4:2:0) of CIFAR-10, "),
        ("jpg", {"progressive": True}, {"subsampling": 0}, "JPEG copy (quality 75) of CIFAR-10, "),
        ("jpg", {}, {"quality": 30, "subsampling": 1}, "JPEG copy of CIFAR-10, "),
        ("png", {}, {"format": "JPEG"}, "Partly a JPEG copy of CIFAR-10, "),
        ("png", {}, {}, "From image files in a labelled folder."),
    ],
)
def test_the_note_says_what_the_files_say(
    tmp_path: Path, suffix: str, form: dict[str, Any], another: dict[str, Any], note: str
) -> None:
    """Quality and sampling where all files have the same; nothing that nobody knows."""
    write_folder(tmp_path / "cifar10", cifar10.LABELS, suffix, **form)
    (tmp_path / "cifar10/train/.trash").mkdir()
    (tmp_path / "cifar10/train/.trash/note.txt").write_text("no image")
    if another:
        Image.new("RGB", (32, 32)).save(tmp_path / "cifar10/test/ship" / f"1.{suffix}", **another)
    loaded = cifar10.load(tmp_path / "cifar10", tmp_path)
    assert loaded.note == (note + "not the original pixels." if "copy" in note else note)


def test_a_folder_with_other_labels_is_not_cifar10(tmp_path: Path) -> None:
    """The ten names are part of what CIFAR-10 is."""
    write_folder(tmp_path / "pets", ("cat", "dog"), "png")
    with pytest.raises(DatasetError, match="the labels are cat, dog"):
        cifar10.load(tmp_path / "pets", tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError, match="holds neither"):
        cifar10.load(tmp_path / "empty", tmp_path)
