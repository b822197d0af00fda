"""Image files: which format, how large, and their pixels, upright.

Pillow's file classes are called directly. `Image.open` guards against decompression bombs with a limit that is global
to the process and with a Python warning; here the limit comes with the call, and is an error.
"""

from __future__ import annotations

import struct
from io import BytesIO
from typing import TYPE_CHECKING

from PIL import Image, PngImagePlugin
from PIL.BmpImagePlugin import BmpImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.WebPImagePlugin import WebPImageFile

from convserve.errors import InvalidRequestError

if TYPE_CHECKING:
    from PIL.ImageFile import ImageFile

WANTED = "send a PNG, JPEG, BMP or WebP file"

MAX_SIDE = 65_535
"""Longest accepted side in pixels: what JPEG can say. No real image of an accepted size is longer."""

MAX_RUN_LENGTH_PIXELS = 1_000_000
"""Largest run-length coded BMP. Pillow decodes those in Python: some kilobytes could hold a core for seconds."""

_RUN_LENGTH = (BmpImageFile.COMPRESSIONS["RLE8"], BmpImageFile.COMPRESSIONS["RLE4"])

MAX_JPEG_SCANS = 100
"""Most passes over one JPEG. Progressive files have about ten; each takes a few bytes, and time for the whole image."""


PngImagePlugin.MAX_TEXT_MEMORY = 2 * 2**20
# Bytes of text in one PNG, unpacked, for the whole process: nobody reads it here, and Pillow allows 64 MiB.


class _Jpeg(JpegImageFile):
    """JPEG without the search for a resolution in EXIF: it costs more than a small image, and warns about bad tags."""

    def _read_dpi_from_exif(self) -> None:
        """Do nothing: the resolution is not used."""


_CLASSES: dict[str, type[ImageFile]] = {
    "PNG": PngImagePlugin.PngImageFile,
    "JPEG": _Jpeg,
    "BMP": BmpImageFile,
    "WebP": WebPImageFile,
}

# Beginnings of files: (offset, bytes, name). The accepted formats first.
_SIGNATURES: tuple[tuple[int, bytes, str], ...] = (
    (0, b"\x89PNG\r\n\x1a\n", "PNG"),
    (0, b"\xff\xd8\xff", "JPEG"),
    (8, b"WEBP", "WebP"),
    (0, b"BM", "BMP"),
    (0, b"GIF8", "GIF"),
    (0, b"II*\0", "TIFF"),
    (0, b"MM\0*", "TIFF"),
    (4, b"ftypavif", "AVIF"),
    (4, b"ftyphei", "HEIC"),
    (4, b"ftypmif1", "HEIC"),
    (4, b"ftyp", "MP4 video"),
    (0, b"\0\0\0\x0cjP  ", "JPEG 2000"),
    (0, b"\0\0\0\x0cJXL ", "JPEG XL"),
    (0, b"\xff\x0a", "JPEG XL"),
    (0, b"\0\0\1\0", "ICO"),
    (0, b"8BPS", "Photoshop"),
    (0, b"%PDF", "PDF"),
    (0, b"<svg", "SVG"),
    (0, b"<?xml", "XML or SVG"),
    (0, b"<!DOCTYPE", "HTML"),
    (0, b"<html", "HTML"),
    (0, b"data:", "a data: URL, which must be decoded from base64 first"),
    (0, b"iVBORw0KGgo", "PNG in base64, which must be decoded first"),
    (0, b"/9j/", "JPEG in base64, which must be decoded first"),
    (0, b"\x93NUMPY", "NumPy, whose arrays travel packed"),
    (0, b"PK\3\4", "ZIP"),
    (0, b"\x1f\x8b", "gzip"),
)

_ORIENTATIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What undoes each value of EXIF's orientation tag (JEITA CP-3451, tag 0x0112)."""


def read(data: bytes, enough: int, *, max_pixels: int, field: str) -> tuple[Image.Image, list[str]]:
    """Read the file's (first) image and turn it upright. Returns it with the list of what was done.

    A JPEG whose sides are at least twice `enough` pixels may be decoded at 1/2, 1/4 or 1/8 of its size, so that no side
    falls below `enough`.

    Raises:
        InvalidRequestError: the file is empty, of another format, damaged, cut short, or too large.
    """
    kind = _identify(data)
    if kind not in _CLASSES:
        came = "is empty" if not data else f"is {kind}" if kind else "is not an image file of a known format"
        raise InvalidRequestError.of(field, f"{came}; {WANTED}")
    try:
        if kind == "WebP":  # the only class that takes memory for pixels when it is made
            _check_size(*_webp_size(data), max_pixels, field)
        image = _CLASSES[kind](BytesIO(data))
        _check_size(*image.size, max_pixels, field)
        _check_work(image, data, field)
        steps = []
        frames = getattr(image, "n_frames", 1)
        if frames > 1:
            steps.append(f"first of {frames} frames")
        size = image.size
        if image.draft(None, (enough, enough)) and image.size != size:  # only JPEG can
            steps.append(f"reduced {size[0]}x{size[1]} to {image.width}x{image.height} while decoding")
        image.load()
        if image.mode == "P" and image.palette is None:
            raise ValueError("the palette is missing")
    except (InvalidRequestError, MemoryError):
        raise
    except Exception as error:
        raise InvalidRequestError.of(field, f"is a damaged or incomplete {kind} file ({error}); {WANTED}") from error
    return _upright(image, steps), steps


def _identify(data: bytes) -> str:
    """Name of the format by its first bytes; empty when unknown."""
    for offset, signature, name in _SIGNATURES:
        if data.startswith(signature, offset):
            return name
    return ""


def _check_size(width: int, height: int, max_pixels: int, field: str) -> None:
    """Refuse an image by the size its header claims."""
    if width * height > max_pixels:
        raise InvalidRequestError.of(
            field, f"is {width}x{height}, {width * height:,} pixels; at most {max_pixels:,} pixels are accepted"
        )
    if max(width, height) > MAX_SIDE:
        raise InvalidRequestError.of(
            field, f"is {width}x{height} pixels; no side may be longer than {MAX_SIDE:,} pixels"
        )


def _check_work(image: ImageFile, data: bytes, field: str) -> None:
    """Refuse small files that would take seconds to decode."""
    if image.format == "BMP" and image.info["compression"] in _RUN_LENGTH:
        if image.width * image.height > MAX_RUN_LENGTH_PIXELS:
            raise InvalidRequestError.of(
                field,
                f"is a run-length coded BMP of {image.width}x{image.height}; at most {MAX_RUN_LENGTH_PIXELS:,} pixels "
                "are accepted in that coding, send a PNG or JPEG file",
            )
    elif image.format == "JPEG" and (scans := data.count(b"\xff\xda")) > MAX_JPEG_SCANS:
        raise InvalidRequestError.of(
            field, f"is a JPEG file of {scans} scans; at most {MAX_JPEG_SCANS} are accepted, save it again"
        )


def _webp_size(data: bytes) -> tuple[int, int]:
    """Width and height in pixels of the canvas, from the first 30 bytes (RFC 9649)."""
    chunk, body = data[12:16], data[20:30]
    if chunk == b"VP8X" and len(body) == 10:
        return int.from_bytes(body[4:7], "little") + 1, int.from_bytes(body[7:10], "little") + 1
    if chunk == b"VP8L" and len(body) >= 5:
        bits = int.from_bytes(body[1:5], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if chunk == b"VP8 " and len(body) == 10:
        width, height = struct.unpack_from("<HH", body, 6)
        return width & 0x3FFF, height & 0x3FFF
    raise ValueError("the header is incomplete")


def _upright(image: Image.Image, steps: list[str]) -> Image.Image:
    """Turn the image as its EXIF data say."""
    exif = image.info.get("exif")
    orientation = _orientation(exif) if isinstance(exif, bytes) else 1
    if orientation not in _ORIENTATIONS:
        return image
    steps.append(f"rotated by EXIF orientation {orientation}")
    turned = image.transpose(_ORIENTATIONS[orientation])
    turned.info = image.info  # holds the transparent colour
    return turned


def _orientation(exif: bytes) -> int:
    """The orientation tag of EXIF data, 1 (upright) to 8; 1 when the data are damaged.

    Read by hand: Pillow's reader warns, raises and takes long on what cameras and editors write.
    """
    tiff = exif.removeprefix(b"Exif\0\0")
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(tiff[:4])
    if order is None:
        return 1
    try:
        (directory,) = struct.unpack_from(f"{order}I", tiff, 4)
        (entries,) = struct.unpack_from(f"{order}H", tiff, directory)
        for start in range(directory + 2, directory + 2 + 12 * entries, 12):
            tag, _type, _count, value = struct.unpack_from(f"{order}HHIH", tiff, start)
            if tag == 0x0112:
                return int(value)
    except struct.error:
        pass
    return 1
