"""Images of every kind become requests; replies become results."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from io import BytesIO, StringIO, TextIOWrapper
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from convserve import InternalError, InvalidRequestError
from convserve.client import images as reading
from convserve.client import replies, requests
from convserve.client.requests import Options
from convserve.v1 import classification_pb2 as pb
from convserve.v1 import model_pb2

MEBI = 2**20


def png(value: int = 7, **options: Any) -> bytes:
    buffer = BytesIO()
    Image.new("L", (3, 2), value).save(buffer, "PNG", **options)
    return buffer.getvalue()


def closed() -> BytesIO:
    file = BytesIO(png())
    file.close()
    return file


def chunks(
    images: Any, *, max_message_bytes: int = MEBI, version: int | str | None = None, max_rows: int = requests.MAX_ROWS
) -> list[requests.Chunk]:
    return list(requests.chunks(images, Options("m", version, 1, explain=False), max_message_bytes, max_rows))


@pytest.mark.parametrize(
    "kind", ["path", "text path", "bytes", "bytearray", "memoryview", "file", "buffer", "open file"]
)
def test_files_travel_as_they_are(kind: str, tmp_path: Path) -> None:
    """Wherever the bytes of a file come from, they are sent unchanged."""
    path = tmp_path / "image.png"
    path.write_bytes(png())
    with path.open("rb") as file:
        image: Any = {
            "path": path,
            "text path": str(path),
            "bytes": png(),
            "bytearray": bytearray(png()),
            "memoryview": memoryview(png()),
            "file": BytesIO(png()),
            "buffer": SimpleNamespace(read=lambda: bytearray(png())),
            "open file": file,
        }[kind]
        assert reading.load(image, 0) == png()


def test_a_missing_file_is_an_os_error(tmp_path: Path) -> None:
    """The error is the one every Python programmer expects."""
    with pytest.raises(FileNotFoundError, match=r"nothing\.png"):
        reading.load(tmp_path / "nothing.png", 0)


@pytest.mark.parametrize("shape", [(4, 5), (4, 5, 1), (4, 5, 3)])
def test_arrays_travel_packed(shape: tuple[int, ...]) -> None:
    """uint8 pixels are sent without encoding; [H, W] becomes [H, W, 1]."""
    pixels = np.arange(np.prod(shape), dtype=np.uint8).reshape(shape)
    (chunk,) = chunks([pixels])
    assert list(chunk.request.packed.shape) == [1, 4, 5, shape[2] if len(shape) == 3 else 1]
    assert chunk.request.packed.data == pixels.tobytes()


def test_strided_arrays_are_sent_in_order() -> None:
    """A view that is not contiguous arrives as it reads."""
    pixels = np.arange(60, dtype=np.uint8).reshape(5, 4, 3).transpose(1, 0, 2)[:, ::-1]
    (chunk,) = chunks([pixels])
    assert chunk.request.packed.data == np.ascontiguousarray(pixels).tobytes()


def test_what_can_become_an_array_travels_packed() -> None:
    """Tensors of other libraries that offer `__array__` need no conversion by the caller."""

    class Tensor:
        def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
            return np.full((2, 2), 9, np.uint8)

    (chunk,) = chunks([Tensor()])
    assert chunk.request.packed.data == bytes([9] * 4)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((2, 2), np.float32), "array of float32; pixels are uint8, 0 to 255, so convert it: (x * 255)"),
        (np.zeros((2, 2), np.int64), "array of int64; pixels are uint8, 0 to 255, so convert it"),
        (np.zeros((2, 2), np.bool_), "array of bool"),
        (np.zeros(4, np.uint8), "array of shape [4]; one image is [height, width] or [height, width, channels]"),
        (np.zeros((1, 2, 2, 1), np.uint8), "several images go to classify_batch"),
        (np.zeros((0, 2, 1), np.uint8), "array of shape [0, 2, 1]"),
        (Image.new("L", (0, 2)), "Pillow image that cannot be written as PNG: cannot write empty image"),
        (Image.new("F", (2, 2)), "Pillow image of mode F; convert it to L or RGB"),
        (StringIO("x"), "open for text; open it with mode 'rb'"),
        (TextIOWrapper(BytesIO(png()), "utf-8"), "open for text; open it with mode 'rb'"),
        (closed(), "is a file that cannot be read: I/O operation on closed file"),
        ("\x89PNG\0", "is a str that is no path: embedded null byte"),
        (3, "is a int; give a path, bytes, a file object, a Pillow image or a uint8 array"),
        ([[1, 2], [3, 4]], "is a list; give"),
    ],
)
def test_what_is_no_image_is_refused_with_its_position(image: Any, message: str) -> None:
    """Nothing is guessed: a float array may mean 0 to 1 or 0 to 255."""
    with pytest.raises(InvalidRequestError) as caught:
        chunks([png(), image])
    assert message in str(caught.value)
    assert caught.value.violations[0].field == "images[1]"


@pytest.mark.parametrize("images", ["image.png", Path("image.png"), b"\x89PNG", BytesIO(b"\x89PNG\n")])
def test_one_image_where_many_are_wanted_is_refused(images: Any) -> None:
    """A path is not a list of letters, and a file not one of lines."""
    with pytest.raises(InvalidRequestError, match="give a list of images, or use classify"):
        chunks(images)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
def test_pillow_images_travel_as_png_of_their_mode(mode: str) -> None:
    """They may have any size, so the server must treat them as files."""
    image = Image.new(mode, (5, 4), 1 if mode in "1LPI;16" else None)
    sent = reading.load(image, 0)
    assert isinstance(sent, bytes)
    arrived = Image.open(BytesIO(sent))
    assert (arrived.format, arrived.mode, arrived.size) == ("PNG", mode, (5, 4))
    assert arrived.tobytes() == image.tobytes()


@pytest.mark.parametrize(("mode", "sent_mode"), [("CMYK", "RGB"), ("YCbCr", "RGB"), ("HSV", "RGB"), ("PA", "RGBA")])
def test_modes_that_png_has_not_are_converted(mode: str, sent_mode: str) -> None:
    """The nearest mode that PNG has is used."""
    sent = reading.load(Image.new(mode, (5, 4)), 0)
    assert isinstance(sent, bytes)
    assert Image.open(BytesIO(sent)).mode == sent_mode


@pytest.mark.parametrize("exif", [b"Exif\0\0MM\0*", b"Exif\0\0garbage", "text"], ids=["cut", "garbage", "text"])
def test_damaged_exif_of_a_pillow_image_is_ignored(exif: Any) -> None:
    """As the server ignores that of a file."""
    image = Image.new("RGB", (5, 4))
    image.info["exif"] = exif
    sent = reading.load(image, 0)
    assert isinstance(sent, bytes)
    assert Image.open(BytesIO(sent)).size == (5, 4)


@pytest.mark.parametrize("orientation", [0, 9, -5, 70_000])
def test_an_orientation_that_is_none_is_ignored(orientation: int) -> None:
    """Not every one could be written."""
    image = Image.new("RGB", (5, 4))
    image.getexif()[0x0112] = orientation
    sent = reading.load(image, 0)
    assert isinstance(sent, bytes)
    assert 0x0112 not in Image.open(BytesIO(sent)).getexif()


def test_a_pillow_image_whose_file_is_damaged_is_named() -> None:
    """Pillow reads the pixels when they are asked for, and calls a damaged chunk a SyntaxError."""
    buffer = BytesIO()
    Image.effect_noise((300, 300), 100).save(buffer, "PNG")
    data = bytearray(buffer.getvalue())
    second = data.index(b"IDAT", data.index(b"IDAT") + 4)
    data[second : second + 4] = b"\n\xe4%P"
    with pytest.raises(InvalidRequestError, match=r"images\[3\]: is a Pillow image that cannot be written.*broken PNG"):
        reading.load(Image.open(BytesIO(data)), 3)


def test_a_source_may_use_one_array_for_all_images() -> None:
    """As cameras do: each image travels as it was when it came."""
    frame = np.zeros((1, 1, 1), np.uint8)

    def frames() -> Iterator[Any]:
        for number in range(5):
            frame[:] = number
            yield frame

    assert [chunk.request.packed.data for chunk in chunks(frames(), max_rows=3)] == [bytes([0, 1, 2]), bytes([3, 4])]


def test_a_pillow_image_keeps_its_orientation() -> None:
    """A photo opened with Pillow is classified as its file would be."""
    exif = Image.Exif()
    exif[0x0112] = 6
    photo = BytesIO()
    Image.new("RGB", (6, 4)).save(photo, "JPEG", exif=exif)
    with Image.open(photo) as opened:
        sent = reading.load(opened, 0)
    assert isinstance(sent, bytes)
    assert Image.open(BytesIO(sent)).getexif()[0x0112] == 6


def test_many_images_are_split_by_rows() -> None:
    """No request is longer than the server's queue likes."""
    images = np.arange(150, dtype=np.uint8)[:, None, None].repeat(4, axis=1)  # [150, 4, 1]
    found = chunks(images)
    assert [(chunk.first, chunk.rows) for chunk in found] == [(0, 64), (64, 64), (128, 22)]
    assert b"".join(chunk.request.packed.data for chunk in found) == images.tobytes()


def test_many_images_are_split_by_bytes() -> None:
    """No message is larger than the limit."""
    images = [bytes([index]) * 40_000 for index in range(10)]
    found = chunks(images, max_message_bytes=100_000)
    assert [chunk.rows for chunk in found] == [2, 2, 2, 2, 2]
    assert all(chunk.request.ByteSize() <= 100_000 for chunk in found)
    assert [image for chunk in found for image in chunk.request.encoded.images] == images


def test_an_image_larger_than_a_message_is_refused() -> None:
    """It could never arrive."""
    with pytest.raises(InvalidRequestError, match=r"images\[1\]: takes 200,016 bytes; one message carries 95,904"):
        chunks([b"x", bytes(200_000)], max_message_bytes=100_000)


def test_kinds_and_shapes_are_not_mixed_in_a_request() -> None:
    """A mixed list keeps its order over several requests."""
    small, large = np.zeros((2, 2), np.uint8), np.zeros((3, 3), np.uint8)
    found = chunks([png(), png(), small, small, large, png()])
    assert [(chunk.first, chunk.rows, chunk.request.WhichOneof("input")) for chunk in found] == [
        (0, 2, "encoded"),
        (2, 2, "packed"),
        (4, 1, "packed"),
        (5, 1, "encoded"),
    ]


def test_images_are_read_when_their_turn_comes() -> None:
    """An endless stream of images takes no more memory than one request."""
    taken = []

    def endless() -> Any:
        index = 0
        while True:
            taken.append(index)
            yield png()
            index += 1

    next(requests.chunks(endless(), Options("m", None, 1, explain=False), MEBI))
    assert len(taken) == requests.MAX_ROWS


@pytest.mark.parametrize(
    ("version", "choice", "value"),
    [
        (None, None, None),
        (3, "version", 3),
        ("12", "version", 12),
        ("stable", "alias", "stable"),
        ("v2", "alias", "v2"),
    ],
)
def test_versions_are_numbers_or_aliases(version: Any, choice: str | None, value: Any) -> None:
    """Digits are a number, other words an alias, nothing is the server's choice."""
    request = Options("m", version, 1, explain=False).request()
    assert request.WhichOneof("version_choice") == choice
    if choice:
        assert getattr(request, choice) == value


@pytest.mark.parametrize("version", [0, -1, "0", 2**63, 1.5, np.float32(1.5), Decimal("1.5"), b"1.5", ["1.5"]])
def test_impossible_versions_are_refused(version: Any) -> None:
    """The error says so before anything is sent."""
    with pytest.raises(InvalidRequestError, match=r"versions are 1 or higher|1\.5.* came; a version is a whole number"):
        Options("m", version, 1, explain=False).request()


@pytest.mark.parametrize("top_k", [-1, 2**32, 1.0, np.float32(1), True, "1", None])
def test_impossible_top_k_is_refused(top_k: Any) -> None:
    """The error says so before anything is sent."""
    with pytest.raises(InvalidRequestError, match="number of classes"):
        Options("m", None, top_k, explain=False).request()


@pytest.mark.parametrize("explain", [0.0, 1.0, Decimal(1), "yes"])
def test_what_is_neither_true_nor_false_is_refused(explain: Any) -> None:
    """0.0 equals False: it would open the lane of everybody, and then fail in it."""
    with pytest.raises(InvalidRequestError, match=r"^explain: .* came; it is True or False"):
        Options("m", None, 1, explain=explain).check()


@pytest.mark.parametrize("explain", [True, 1, np.True_])
def test_whatever_travels_as_true_is_true(explain: Any) -> None:
    """Also what NumPy compared."""
    assert Options("m", None, 1, explain=explain).request().explain


def result(*labels: str) -> pb.ImageResult:
    return pb.ImageResult(predictions=[pb.Prediction(label=label, probability=0.5) for label in labels])


def test_each_image_knows_the_batch_it_was_in() -> None:
    """A request may run in several batches."""
    reply = pb.ClassifyResponse(results=[result("a"), result("b"), result("c")])
    reply.batches.add(request_rows=2, rows=8, release_reason=pb.RELEASE_REASON_WINDOW, run_seconds=0.25)
    reply.batches.add(request_rows=1, rows=1, release_reason=pb.RELEASE_REASON_IDLE)
    found = replies.classifications(reply, 3)
    reasons = [(one.batch.rows, one.batch.release_reason) for one in found if one.batch]
    assert reasons == [(8, "window"), (8, "window"), (1, "idle")]


@pytest.mark.parametrize(
    "results", [[], [result("a")], [result("a"), result()], [result("a"), result("b"), result("c")]]
)
def test_a_reply_that_does_not_fit_is_an_error(results: list[pb.ImageResult]) -> None:
    """An answer is never given to the wrong image."""
    with pytest.raises(InternalError, match="answered 2 images with"):
        replies.classifications(pb.ClassifyResponse(results=results), 2)


def test_states_of_a_newer_server_are_unspecified() -> None:
    """An older client goes on working."""
    message = model_pb2.Model(name="m")
    message.versions.add(version=2, state=model_pb2.VERSION_STATE_AVAILABLE)
    message.versions.add(version=1, state=99)
    found = replies.model_info(message)
    assert [version.state for version in found.versions] == ["available", "unspecified"]
    assert found.default_version is None
