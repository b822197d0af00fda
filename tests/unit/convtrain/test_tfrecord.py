"""Records as TensorFlow reads them; that it does is tested where TensorFlow and real versions are."""

from __future__ import annotations

import pytest

from convtrain import tfrecord


@pytest.mark.parametrize(
    ("data", "checksum"),
    [
        (b"", 0),
        (bytes(32), 0x8A9136AA),
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
        (bytes(range(31, -1, -1)), 0x113FDB5C),
    ],
)
def test_checksum(data: bytes, checksum: int) -> None:
    """The examples of RFC 3720, B.4."""
    assert tfrecord.crc32c(data) == checksum


def test_a_record_lies_between_its_checksums() -> None:
    """Length, its checksum, data, its checksum; a file of none is empty."""
    assert tfrecord.encode([]) == b""
    content = tfrecord.encode([b"abc", b""])
    assert len(content) == 16 + 3 + 16
    assert content[:8] == b"\x03" + bytes(7)
    assert content[12:15] == b"abc"
    assert content[8:12] != content[15:19]
    assert content[19:27] == bytes(8)
    assert content[-4:] == bytes.fromhex("d8ea82a2")  # the masked checksum of nothing
