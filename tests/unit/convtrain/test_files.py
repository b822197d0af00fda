"""A file is replaced whole or not at all."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import numpy as np
import pytest

from convtrain import files


def test_an_error_leaves_the_old_content_and_nothing_else(tmp_path: Path) -> None:
    """A full disk or a killed writer costs the new content, not the old."""
    path = tmp_path / "file"
    files.write_bytes(path, b"old")

    def write_half() -> None:
        with files.atomic_write(path) as file:
            file.write(b"half")
            raise OSError("no space left")

    with pytest.raises(OSError, match="no space left"):
        write_half()
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_a_full_disk_names_the_file(tmp_path: Path) -> None:
    """The system's own error of writing to an open file does not."""
    path = tmp_path / "report.json"
    with pytest.raises(OSError, match=r"No space left on device: '.*/report\.json'"), files.atomic_write(path):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert list(tmp_path.iterdir()) == []


def test_others_may_read_what_was_written(tmp_path: Path) -> None:
    """Files have the mode that any other file of the user gets."""
    (tmp_path / "usual").touch()
    files.write_bytes(tmp_path / "ours", b"x")
    modes = {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("usual", "ours")}
    assert len(modes) == 1


def test_arrays_come_back_and_damage_is_a_value_error(tmp_path: Path) -> None:
    """Whatever is wrong with an npz, callers catch one class."""
    path = tmp_path / "a.npz"
    files.write_arrays(path, {"x": np.arange(3), "y": np.zeros((2, 2))})
    assert sorted(files.read_arrays(path)) == ["x", "y"]
    assert files.read_arrays(path, ["x"])["x"].tolist() == [0, 1, 2]
    with pytest.raises(KeyError):
        files.read_arrays(path, ["z"])
    whole = path.read_bytes()
    np.save(tmp_path / "single.npy", np.zeros(3))
    entry = whole.index(b"PK\1\2")
    encrypted, future = bytearray(whole), bytearray(whole)  # by one byte; zipfile's errors for those are others
    encrypted[entry + 8] |= 1
    future[entry + 6] = 200
    single = (tmp_path / "single.npy").read_bytes()
    for damaged in (b"", b"x", whole[:-30], whole[:40], single, encrypted, future):
        path.write_bytes(damaged)
        with pytest.raises(ValueError):
            files.read_arrays(path)
    with pytest.raises(FileNotFoundError):
        files.read_arrays(tmp_path / "none.npz")
