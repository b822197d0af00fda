"""TFRecord: byte strings one after the other, each with its length and checksums, all little-endian.

::

    length, 8 bytes | masked CRC-32C of the length, 4 bytes | data | masked CRC-32C of the data, 4 bytes

Sources: TensorFlow's guide to TFRecord; CRC-32C is RFC 3720's, appendix B.4.
"""

from __future__ import annotations

from collections.abc import Iterable

_POLYNOMIAL = 0x82F63B78  # Castagnoli's, bits reversed
_MASK_DELTA = 0xA282EAD8


def encode(records: Iterable[bytes]) -> bytes:
    """Make the content of a file of these records."""
    return b"".join(part for record in records for part in _frame(record))


def crc32c(data: bytes) -> int:
    """CRC-32C of some bytes; slow, for small files."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _TABLE[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    return crc ^ 0xFFFFFFFF


def _frame(record: bytes) -> tuple[bytes, bytes, bytes, bytes]:
    length = len(record).to_bytes(8, "little")
    return length, _checksum(length), record, _checksum(record)


def _checksum(data: bytes) -> bytes:
    """The masked checksum: a rotated one, as a checksum of data that holds its own checksum says little."""
    crc = crc32c(data)
    masked = (((crc >> 15) | (crc << 17)) + _MASK_DELTA) & 0xFFFFFFFF
    return masked.to_bytes(4, "little")


def _table_entry(byte: int) -> int:
    for _ in range(8):
        byte = (byte >> 1) ^ (_POLYNOMIAL if byte & 1 else 0)
    return byte


_TABLE = [_table_entry(byte) for byte in range(256)]
