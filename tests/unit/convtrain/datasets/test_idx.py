"""IDX files are read to the byte, and damage is named."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

from convtrain.datasets import idx
from convtrain.errors import DatasetError

ARRAY = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)


def test_what_was_packed_is_read(tmp_path: Path) -> None:
    """Plain and gzipped files give the same array."""
    (tmp_path / "a").write_bytes(idx.pack(ARRAY))
    (tmp_path / "a.gz").write_bytes(gzip.compress(idx.pack(ARRAY)))
    np.testing.assert_array_equal(idx.read(tmp_path / "a", 3), ARRAY)
    np.testing.assert_array_equal(idx.read(tmp_path / "a.gz", 3), ARRAY)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "shorter than the header"),
        (idx.pack(ARRAY)[:10], "shorter than the header"),
        (idx.pack(ARRAY)[:-1], "holds 23 bytes of data, its header announces 2×3×4 = 24"),
        (idx.pack(ARRAY) + b"x", "holds 25 bytes"),
        (b"\x00\x00\x0d\x03" + idx.pack(ARRAY)[4:], "begins with 00000d03"),
        (b"\x89PNG" + idx.pack(ARRAY)[4:], "begins with 89504e47"),
        (idx.pack(ARRAY[0]), "begins with 00000802"),
    ],
)
def test_a_wrong_file_is_an_error_that_names_it(tmp_path: Path, content: bytes, why: str) -> None:
    """Cut short, too long, of another format or dimension: each has its sentence."""
    (tmp_path / "some-file").write_bytes(content)
    with pytest.raises(DatasetError, match=f"some-file.*{why}"):
        idx.read(tmp_path / "some-file", 3)


def test_damaged_gzip_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    """A cut and a flipped bit are both noticed."""
    content = gzip.compress(idx.pack(ARRAY))
    flipped = bytearray(content)
    flipped[-10] ^= 1
    for damaged in (content[:-12], bytes(flipped), b"not gzip"):
        (tmp_path / "a.gz").write_bytes(damaged)
        with pytest.raises(DatasetError, match=r"a\.gz: cannot be read"):
            idx.read(tmp_path / "a.gz", 3)
