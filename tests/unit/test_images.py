"""Decoding image files: every mode and format, every size, and everything a hostile caller can think of."""

from __future__ import annotations

import contextlib
import gzip
import struct
import tracemalloc
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageFile, ImageOps, PngImagePlugin

from convserve.errors import InvalidRequestError
from convserve.images import Decoded, decode
from convserve.manifest import DecodePolicy, InputSpec

GREY = InputSpec(height=28, width=28, channels=1)
RGB = InputSpec(height=32, width=32, channels=3)
STRETCH = DecodePolicy()
PAD = DecodePolicy(fit="pad")
CROP = DecodePolicy(fit="crop")
DIGITS = DecodePolicy(fit="pad", polarity="auto")
GLYPH = DecodePolicy(fit="glyph", polarity="auto")
MNIST = Path(__file__).parents[2].parent / "shared" / "data" / "mnist"

Pixels = npt.NDArray[np.uint8]


def file_of(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def run(data: bytes, spec: InputSpec = RGB, policy: DecodePolicy = STRETCH, max_pixels: int = 1_000_000) -> Decoded:
    return decode(data, spec, policy, max_pixels=max_pixels, field="encoded.images[3]")


def random_pixels(*shape: int) -> Pixels:
    return np.random.default_rng(7).integers(0, 256, shape, dtype=np.uint8)


def smooth(width: int, height: int) -> Image.Image:
    """A colour image without sharp edges, so that lossy formats and filters change little."""
    return Image.fromarray(random_pixels(3, 4, 3)).resize((width, height), Image.Resampling.BICUBIC)


def png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png_header(width: int, height: int) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))


# --- files that fit ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["PNG", "BMP"])
def test_a_grey_file_of_the_models_size_keeps_its_pixels(kind: str) -> None:
    """Nothing is done to a file that fits: served accuracy equals the accuracy on packed pixels."""
    pixels = random_pixels(28, 28, 1)
    decoded = run(file_of(Image.fromarray(pixels[:, :, 0]), kind), GREY)
    np.testing.assert_array_equal(decoded.pixels, pixels)
    assert decoded.steps == ()
    assert decoded.pixels.flags.c_contiguous
    assert decoded.pixels.dtype == np.uint8


@pytest.mark.parametrize(("kind", "options"), [("PNG", {}), ("BMP", {}), ("WEBP", {"lossless": True})])
def test_a_colour_file_of_the_models_size_keeps_its_pixels(kind: str, options: dict[str, Any]) -> None:
    """The same for colour, in every lossless format."""
    pixels = random_pixels(32, 32, 3)
    decoded = run(file_of(Image.fromarray(pixels), kind, **options))
    np.testing.assert_array_equal(decoded.pixels, pixels)
    assert decoded.steps == ()


def test_a_jpeg_of_the_models_size_is_what_pillow_reads() -> None:
    """JPEG is lossy; what it holds is passed on as it is."""
    data = file_of(smooth(32, 32), "JPEG")
    decoded = run(data)
    np.testing.assert_array_equal(decoded.pixels, np.asarray(Image.open(BytesIO(data))))
    assert decoded.steps == ()


def test_a_spec_that_is_not_square_is_height_by_width() -> None:
    """Rows come first in arrays, columns first in Pillow; neither is mixed up."""
    spec = InputSpec(height=20, width=30, channels=3)
    pixels = random_pixels(20, 30, 3)
    np.testing.assert_array_equal(run(file_of(Image.fromarray(pixels)), spec).pixels, pixels)
    assert run(file_of(smooth(90, 90)), spec).pixels.shape == (20, 30, 3)


@pytest.mark.full_data
@pytest.mark.skipif(not MNIST.is_dir(), reason=f"{MNIST} is not there")
@pytest.mark.parametrize("policy", [DIGITS, GLYPH], ids=["pad", "glyph"])
def test_every_mnist_test_digit_keeps_its_pixels(policy: DecodePolicy) -> None:
    """Polarity `auto` flips none of the 10,000 test digits."""
    with gzip.open(MNIST / "t10k-images-idx3-ubyte.gz") as file:
        digits = np.frombuffer(file.read(), np.uint8, offset=16).reshape(-1, 28, 28)
    assert len(digits) == 10_000
    for digit in digits:
        decoded = run(file_of(Image.fromarray(digit), compress_level=1), GREY, policy)
        assert decoded.steps == ()
        assert decoded.pixels.tobytes() == digit.tobytes()


# --- colour modes -----------------------------------------------------------------------------------------------------


MODES = {
    "PNG": ["1", "L", "LA", "RGB", "RGBA", "P", "I;16"],
    "JPEG": ["1", "L", "RGB", "CMYK"],
    "BMP": ["1", "L", "RGB", "RGBA", "P"],
    "WEBP": ["RGB", "RGBA"],
}


@pytest.mark.parametrize(("kind", "mode"), [(kind, mode) for kind, modes in MODES.items() for mode in modes])
@pytest.mark.parametrize("spec", [GREY, RGB], ids=["grey", "rgb"])
def test_every_mode_of_every_format_is_read(kind: str, mode: str, spec: InputSpec) -> None:
    """Whatever a format can hold becomes the model's shape."""
    image = Image.fromarray(np.full((40, 50), 25700, np.uint16)) if mode == "I;16" else smooth(50, 40).convert(mode)
    decoded = run(file_of(image, kind), spec)
    assert decoded.pixels.shape == spec.shape
    assert decoded.steps[-1] == f"resized 50x40 to {spec.width}x{spec.height}"


def test_one_bit_becomes_black_and_white() -> None:
    """1-bit samples are 0 and 255, not 0 and 1."""
    bits = random_pixels(28, 28) > 127
    decoded = run(file_of(Image.fromarray(bits)), GREY)
    np.testing.assert_array_equal(decoded.pixels[:, :, 0], np.where(bits, 255, 0))
    assert decoded.steps == ("converted from 1-bit",)


def test_sixteen_bits_are_scaled() -> None:
    """65535 is white and 32896 the middle; nothing is clipped at 255."""
    values = np.linspace(0, 65535, 28 * 28).astype(np.uint16).reshape(28, 28)
    decoded = run(file_of(Image.fromarray(values)), GREY)
    np.testing.assert_array_equal(decoded.pixels[:, :, 0], np.rint(values / 257))
    assert decoded.steps == ("converted from 16-bit grey",)


def test_colour_becomes_grey_by_luma() -> None:
    """ITU-R 601: red is darker than green."""
    decoded = run(file_of(Image.new("RGB", (28, 28), (255, 0, 0))), GREY)
    assert set(decoded.pixels.ravel()) == {76}
    assert decoded.steps == ("converted from RGB",)


def test_grey_becomes_colour_without_a_tint() -> None:
    """The three channels of a grey image are the same."""
    pixels = random_pixels(32, 32)
    decoded = run(file_of(Image.fromarray(pixels)))
    np.testing.assert_array_equal(decoded.pixels, np.repeat(pixels[:, :, None], 3, axis=2))
    assert decoded.steps == ("converted from grey",)


def test_a_grey_palette_is_exact() -> None:
    """Editors like to save grey drawings with a palette; their values survive."""
    pixels = random_pixels(28, 28)
    image = Image.fromarray(255 - pixels).convert("L")
    indexed = Image.frombytes("P", (28, 28), image.tobytes())
    indexed.putpalette([255 - value for value in range(256) for _ in range(3)])
    decoded = run(file_of(indexed), GREY)
    np.testing.assert_array_equal(decoded.pixels[:, :, 0], pixels)
    assert decoded.steps == ("converted from palette",)


@pytest.mark.parametrize("chunk", [b"", png_chunk(b"tRNS", b"\0\x80")], ids=["nothing", "transparency"])
def test_a_palette_that_is_missing_is_said(chunk: bytes) -> None:
    """A PNG of indices has to say what they mean (PNG, 11.2.2); Pillow fails an assertion later."""
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", 2, 2, 8, 3, 0, 0, 0))
    data = png_chunk(b"IDAT", zlib.compress(b"\0\0\1\0\2\3")) + png_chunk(b"IEND", b"")
    with pytest.raises(InvalidRequestError, match=r"damaged or incomplete PNG file \(the palette is missing\)"):
        run(b"\x89PNG\r\n\x1a\n" + header + chunk + data)


def test_cmyk_jpeg_is_read() -> None:
    """A print shop's JPEG shows the colours it shows in a viewer."""
    data = file_of(Image.new("CMYK", (32, 32), (0, 255, 255, 0)), "JPEG")
    decoded = run(data)
    red, green, blue = decoded.pixels.reshape(-1, 3).mean(axis=0)
    assert red > 240
    assert max(green, blue) < 15
    assert decoded.steps == ("converted from CMYK",)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
@pytest.mark.parametrize("background", [0, 200, 255])
def test_transparent_parts_show_the_background(mode: str, background: int) -> None:
    """The policy's background shows through, in every mode that knows transparency."""
    image = Image.new("RGBA", (32, 32), (10, 20, 30, 0))
    image.paste((60, 60, 60, 255), (0, 0, 32, 16))
    decoded = run(file_of(image.convert(mode)), policy=DecodePolicy(background=background))
    assert set(decoded.pixels[16:].ravel()) == {background}
    assert abs(int(decoded.pixels[0, 0, 0]) - 60) <= 3  # a web palette is coarse
    assert f"alpha over {background}" in decoded.steps


@pytest.mark.parametrize(("mode", "transparent"), [("L", 10), ("1", 0), ("RGB", (10, 10, 10)), ("I;16", 2570)])
def test_a_transparent_colour_shows_the_background(mode: str, transparent: Any) -> None:
    """PNG can declare one colour transparent without an alpha channel."""
    dark, light = (0, 1) if mode == "1" else (10, 90)
    values = np.full((28, 28), dark, np.uint8)
    values[:14] = light
    if mode == "I;16":
        image = Image.fromarray(values.astype(np.uint16) * 257)
    elif mode == "1":
        image = Image.fromarray(values == 1)
    else:
        image = Image.fromarray(values).convert(mode)
    decoded = run(file_of(image, transparency=transparent), GREY, DecodePolicy(background=200))
    assert set(decoded.pixels[14:].ravel()) == {200}
    assert set(decoded.pixels[:14].ravel()) == {255 if mode == "1" else 90}


def test_light_strokes_on_nothing_do_not_vanish() -> None:
    """White strokes on a transparent ground would be lost on white; with polarity `auto` they lie on black."""
    image = Image.new("RGBA", (28, 28), (0, 0, 0, 0))
    ImageDraw.Draw(image).line((14, 4, 14, 24), fill=(255, 255, 255, 255), width=3)
    decoded = run(file_of(image), GREY, DIGITS)
    assert decoded.steps == ("alpha over 0", "converted from RGB")
    assert decoded.pixels[14, 14, 0] == 255
    assert decoded.pixels[0, 0, 0] == 0


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_exif_orientation_is_undone(kind: str, orientation: int) -> None:
    """A phone's photo is classified the way it is seen."""
    exif = Image.Exif()
    exif[0x010F] = "a camera"
    exif[0x0112] = orientation
    data = file_of(smooth(48, 32), kind, exif=exif, **({"lossless": True} if kind == "WEBP" else {}))
    upright = ImageOps.exif_transpose(Image.open(BytesIO(data)))
    spec = InputSpec(height=upright.height, width=upright.width, channels=3)
    decoded = run(data, spec)
    np.testing.assert_array_equal(decoded.pixels, np.asarray(upright))
    assert decoded.steps == (() if orientation == 1 else (f"rotated by EXIF orientation {orientation}",))


@pytest.mark.parametrize(
    "exif",
    [
        b"Exif\0\0",
        b"Exif\0\0II*\0",
        b"Exif\0\0MM\0*\xff\xff\xff\xff",
        b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + b"\x12\x01",
        b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x63\0\0\0",
        b"Exif\0\0nonsense",
    ],
)
def test_damaged_exif_is_ignored(exif: bytes) -> None:
    """Bad metadata do not make a good image bad."""
    decoded = run(file_of(smooth(32, 32), "JPEG", exif=exif))
    assert decoded.steps == ()


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_the_first_frame_of_an_animation_is_used(kind: str) -> None:
    """An animation is classified by its first frame, and the reply says so."""
    frames = [Image.new("RGB", (32, 32), colour) for colour in ((200, 0, 0), (0, 200, 0), (0, 0, 200))]
    options = {"lossless": True} if kind == "WEBP" else {}
    decoded = run(file_of(frames[0], kind, save_all=True, append_images=frames[1:], duration=100, **options))
    assert decoded.steps == ("first of 3 frames",)
    assert set(map(tuple, decoded.pixels.reshape(-1, 3).tolist())) == {(200, 0, 0)}


# --- polarity ---------------------------------------------------------------------------------------------------------


def test_dark_on_light_is_inverted_and_said() -> None:
    """Ink on paper becomes what MNIST's models know: light on dark."""
    digit = np.zeros((28, 28), np.uint8)
    digit[5:23, 12:16] = 240
    decoded = run(file_of(Image.fromarray(255 - digit)), GREY, DIGITS)
    np.testing.assert_array_equal(decoded.pixels[:, :, 0], digit)
    assert decoded.steps == ("inverted (dark on light)",)


def test_polarity_as_is_inverts_nothing() -> None:
    """Only models that ask for it get inverted images."""
    assert run(file_of(Image.new("L", (28, 28), 255)), GREY).steps == ()


def test_a_stroke_at_the_border_does_not_decide() -> None:
    """The median of the border counts, so ink may touch it."""
    digit = np.zeros((28, 28), np.uint8)
    digit[0:28, 8:16] = 255
    assert run(file_of(Image.fromarray(digit)), GREY, DIGITS).steps == ()


# --- sizes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "policy", [STRETCH, PAD, CROP, DIGITS, GLYPH], ids=["stretch", "pad", "crop", "digits", "glyph"]
)
@pytest.mark.parametrize("size", [(1, 1), (1, 500), (500, 1), (3, 2), (28, 29), (640, 480), (333, 777)])
def test_any_size_becomes_the_models(policy: DecodePolicy, size: tuple[int, int]) -> None:
    """No size is too small, too long or too odd."""
    decoded = run(file_of(smooth(*size)), GREY, policy)
    assert decoded.pixels.shape == GREY.shape


def test_pad_keeps_the_aspect_and_borrows_the_border() -> None:
    """The added borders have the colour of the image's own border."""
    image = Image.new("RGB", (64, 32), (10, 200, 30))
    image.paste((250, 0, 0), (16, 8, 48, 24))
    decoded = run(file_of(image), policy=PAD)
    assert decoded.steps == ("resized 64x32 to 32x16", "padded 32x16 to 32x32")
    assert decoded.pixels[0, 0].tolist() == [10, 200, 30]
    assert decoded.pixels[16, 16].tolist() == [250, 0, 0]


def test_crop_cuts_the_longer_side_around_the_centre() -> None:
    """What lies outside the central square has no influence."""
    image = Image.new("RGB", (96, 32), (255, 255, 255))
    image.paste((0, 0, 100), (32, 0, 64, 32))
    decoded = run(file_of(image), policy=CROP)
    assert decoded.steps == ("cropped 96x32 to 32x32",)
    assert set(map(tuple, decoded.pixels.reshape(-1, 3).tolist())) == {(0, 0, 100)}


@pytest.mark.parametrize(("side", "width"), [(28, 29), (11, 25), (224, 450)])
def test_crop_never_leaves_the_image(side: int, width: int) -> None:
    """`side * (width / side)` is a little more than `width` for these, in floating point."""
    assert side * (width / side) > width
    spec = InputSpec(height=side, width=side, channels=3)
    decoded = run(file_of(Image.new("RGB", (width, width + 7), "red")), spec, CROP)
    assert decoded.pixels.reshape(-1, 3).tolist() == [[255, 0, 0]] * side**2


def test_stretch_ignores_the_aspect() -> None:
    """The whole image is in the result."""
    image = Image.new("L", (100, 20), 0)
    image.paste(255, (50, 0, 100, 20))
    decoded = run(file_of(image), GREY)
    assert decoded.steps == ("resized 100x20 to 28x28",)
    assert decoded.pixels[:, :13].max() == 0
    assert decoded.pixels[:, 15:].min() == 255


@pytest.mark.parametrize("resample", ["bilinear", "bicubic", "lanczos", "box"])
def test_shrinking_averages(resample: Any) -> None:
    """A fine chequerboard becomes its mean, not a moiré pattern."""
    board = (np.indices((280, 280)).sum(axis=0) % 2 * 255).astype(np.uint8)
    decoded = run(file_of(Image.fromarray(board)), GREY, DecodePolicy(resample=resample))
    assert int(np.ptp(decoded.pixels)) <= 12
    assert abs(float(decoded.pixels.mean()) - 127.5) < 2


def test_a_huge_jpeg_is_reduced_while_decoding_with_the_same_result() -> None:
    """Decoding at 1/8 is an optimisation; it changes no pixel by more than rounding."""
    data = file_of(smooth(2000, 1500), "JPEG", quality=90)
    decoded = run(data, max_pixels=3_000_000)
    whole = Image.open(BytesIO(data)).resize((32, 32), Image.Resampling.BILINEAR)
    assert decoded.steps == ("reduced 2000x1500 to 250x188 while decoding", "resized 250x188 to 32x32")
    assert np.abs(decoded.pixels.astype(int) - np.asarray(whole, int)).max() <= 2


# --- glyphs -----------------------------------------------------------------------------------------------------------


def drawing(size: tuple[int, int], at: tuple[int, int], height: int, width: int) -> Image.Image:
    """A 7 drawn with a black pen of some width on white paper."""
    image = Image.new("L", size, 255)
    x, y = at
    corners = [(x, y), (x + height // 2, y), (x + height // 5, y + height)]
    ImageDraw.Draw(image).line(corners, fill=0, width=width, joint="curve")
    return image


@pytest.mark.parametrize("at", [(20, 20), (200, 60), (110, 90)])
@pytest.mark.parametrize("width", [2, 6, 14])
def test_a_glyph_is_framed_as_mnist_frames_its_digits(at: tuple[int, int], width: int) -> None:
    """Wherever and however thick it is drawn, it is 20 pixels high and its centre of mass is in the middle."""
    decoded = run(file_of(drawing((300, 200), at, 90, width)), GREY, GLYPH)
    ink = decoded.pixels[:, :, 0].astype(float)
    (rows,) = (ink.max(axis=1) > 60).nonzero()
    assert 18 <= rows[-1] - rows[0] + 1 <= 20
    y, x = (np.indices(ink.shape) + 0.5).reshape(2, -1) @ ink.ravel() / ink.sum()
    assert abs(y - 14) <= 0.75
    assert abs(x - 14) <= 0.75
    assert ink.max() == 255
    assert ink[0].max() == 0
    assert [step.split()[0] for step in decoded.steps] == ["inverted", "cropped", "resized"]


def test_a_glyph_is_found_under_uneven_light() -> None:
    """A shadow across the paper is not ink."""
    clean = drawing((400, 300), (150, 80), 120, 8)
    light = np.linspace(0.5, 1.0, 400)[None, :]
    noise = np.random.default_rng(1).normal(0, 4, (300, 400))
    photo = Image.fromarray(np.clip(np.asarray(clean) * light + noise, 0, 255).astype(np.uint8))
    expected = run(file_of(clean), GREY, GLYPH).pixels.astype(float)
    found = run(file_of(photo), GREY, GLYPH).pixels.astype(float)
    assert np.abs(found - expected).mean() < 12


def test_a_glyph_of_the_models_size_is_left_alone() -> None:
    """28x28 files are taken as they are, however they are framed."""
    image = Image.new("L", (28, 28), 0)
    image.paste(255, (1, 1, 4, 9))
    assert run(file_of(image), GREY, GLYPH).steps == ()


@pytest.mark.parametrize("value", [0, 128, 255])
def test_an_empty_page_is_padded(value: int) -> None:
    """Where there are no strokes, nothing is blown up."""
    decoded = run(file_of(Image.new("L", (300, 200), value)), GREY, GLYPH)
    assert int(np.ptp(decoded.pixels)) == 0
    assert decoded.steps[-1].startswith("padded")


# --- what is refused --------------------------------------------------------------------------------------------------


def refusal(data: bytes, policy: DecodePolicy = STRETCH, max_pixels: int = 1_000_000) -> str:
    """The message with which a file is refused."""
    with pytest.raises(InvalidRequestError) as caught:
        run(data, policy=policy, max_pixels=max_pixels)
    (violation,) = caught.value.violations
    assert violation.field == "encoded.images[3]"
    assert str(caught.value) == f"encoded.images[3]: {violation.description}"
    return violation.description


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (file_of(Image.new("L", (9, 9)), "GIF"), "GIF"),
        (file_of(Image.new("L", (9, 9)), "TIFF"), "TIFF"),
        (file_of(Image.new("RGB", (9, 9)), "AVIF"), "AVIF"),
        (file_of(Image.new("RGB", (9, 9)), "JPEG2000", no_jp2=False), "JPEG 2000"),
        (b"%PDF-1.7 ...", "PDF"),
        (b"<svg xmlns=''></svg>", "SVG"),
        (b"iVBORw0KGgoAAAANSUhEUg", "base64"),
        (b"just some text", "not an image file of a known format"),
        (bytes(100), "not an image file of a known format"),
    ],
)
def test_other_formats_are_named(data: bytes, name: str) -> None:
    """The caller learns what came and what is wanted."""
    message = refusal(data)
    assert name in message
    assert "send a PNG, JPEG, BMP or WebP file" in message


def test_nothing_is_refused_as_empty() -> None:
    """An empty file says so."""
    assert refusal(b"") == "is empty; send a PNG, JPEG, BMP or WebP file"


SAMPLES = {
    "PNG": file_of(Image.fromarray(random_pixels(64, 64, 3))),
    "JPEG": file_of(Image.fromarray(random_pixels(64, 64, 3)), "JPEG"),
    "progressive JPEG": file_of(Image.fromarray(random_pixels(64, 64, 3)), "JPEG", progressive=True),
    "BMP": file_of(Image.fromarray(random_pixels(64, 64, 3)), "BMP"),
    "WebP": file_of(Image.fromarray(random_pixels(64, 64, 3)), "WEBP"),
    "lossless WebP": file_of(Image.fromarray(random_pixels(64, 64, 4)), "WEBP", lossless=True),
}


@pytest.mark.parametrize("tenths", range(1, 10))
@pytest.mark.parametrize("name", SAMPLES)
def test_a_truncated_file_is_refused(name: str, tenths: int) -> None:
    """Half an image is never classified as if it were whole."""
    data = SAMPLES[name]
    assert "damaged or incomplete" in refusal(data[: len(data) * tenths // 10])


def huge_headers() -> dict[str, bytes]:
    """Files of a few bytes whose headers claim many pixels."""
    vp8x = struct.pack("<4sII", b"VP8X", 10, 0) + (16382).to_bytes(3, "little") * 2
    vp8l = struct.pack("<4sIBI", b"VP8L", 5, 0x2F, 16382 | 16382 << 14) + b"\0"
    vp8 = struct.pack("<4sI", b"VP8 ", 10) + b"\x10\0\0\x9d\x01\x2a" + struct.pack("<HH", 16383, 16383)
    jpeg = file_of(Image.new("L", (8, 8)), "JPEG")
    frame = jpeg.index(b"\xff\xc0")
    return {
        "PNG": png_header(60_000, 60_000) + png_chunk(b"IDAT", zlib.compress(bytes(100))) + png_chunk(b"IEND", b""),
        "PNG at the limit of its fields": png_header(2**31 - 1, 2**31 - 1) + png_chunk(b"IDAT", b""),
        "one long row": png_header(900_000, 1) + png_chunk(b"IDAT", zlib.compress(bytes(900_001))),
        "JPEG": jpeg[: frame + 5] + struct.pack(">HH", 65_500, 65_500) + jpeg[frame + 9 :],
        "BMP": b"BM" + struct.pack("<IHHIIiiHHIIiiII", 0, 0, 0, 54, 40, 50_000, 50_000, 1, 24, 0, 0, 0, 0, 0, 0),
        "BMP of negative size": b"BM"
        + struct.pack("<IHHIIiiHHIIiiII", 0, 0, 0, 54, 40, -50_000, -50_000, 1, 24, 0, 0, 0, 0, 0, 0),
        "extended WebP": b"RIFF" + struct.pack("<I", 4 + len(vp8x)) + b"WEBP" + vp8x,
        "lossless WebP": b"RIFF" + struct.pack("<I", 4 + len(vp8l)) + b"WEBP" + vp8l,
        "lossy WebP": b"RIFF" + struct.pack("<I", 4 + len(vp8)) + b"WEBP" + vp8,
    }


@pytest.mark.parametrize("name", huge_headers())
def test_a_bomb_is_refused_by_its_header(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pixels are never asked for: not by Python, and not by Pillow's own memory, which Python does not see."""

    def allocated(*_: object, **__: object) -> None:
        raise AssertionError("memory for pixels was taken")

    monkeypatch.setattr(ImageFile.ImageFile, "load", allocated)
    monkeypatch.setattr("PIL.WebPImagePlugin._webp.WebPAnimDecoder", allocated, raising=True)
    data = huge_headers()[name]
    refusal(data)  # imports and caches
    tracemalloc.start()
    message = refusal(data)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert "at most 1,000,000 pixels are accepted" in message or "longer than 65,535" in message
    assert peak < 100_000


def test_the_limit_is_the_callers_even_beyond_pillows_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow's process-wide limit, which warns, has no say."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    for kind in ("PNG", "JPEG", "BMP"):
        assert run(file_of(smooth(64, 64), kind)).pixels.shape == RGB.shape


def test_a_file_of_exactly_the_limit_is_read() -> None:
    """The limit itself is allowed."""
    assert run(file_of(smooth(100, 50)), max_pixels=5000).pixels.shape == RGB.shape
    assert "is 100x50, 5,000 pixels; at most 4,999 pixels" in refusal(file_of(smooth(100, 50)), max_pixels=4999)


def test_a_bomb_in_a_text_chunk_is_refused() -> None:
    """Compressed text that unfolds to 100 MB does not."""
    info = PngImagePlugin.PngInfo()
    info.add_text("comment", "a" * 100_000_000, zip=True)
    data = file_of(smooth(32, 32), pnginfo=info)
    assert len(data) < 200_000
    tracemalloc.start()
    assert "damaged or incomplete PNG" in refusal(data)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8_000_000


def test_many_text_chunks_together_are_refused() -> None:
    """Neither do many small ones: their sum is limited."""
    text = png_chunk(b"zTXt", b"k\0\0" + zlib.compress(b"a" * 1_000_000))
    data = SAMPLES["PNG"]
    tracemalloc.start()
    assert "damaged or incomplete PNG" in refusal(data[:33] + text * 60 + data[33:])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 16_000_000


def test_a_jpeg_of_endless_scans_is_refused() -> None:
    """Each scan of a few bytes costs a pass over the whole image."""
    data = file_of(smooth(64, 64), "JPEG", progressive=True)
    start = data.rindex(b"\xff\xda")
    assert "scans; at most 100 are accepted" in refusal(data[:start] + data[start:-2] * 200 + b"\xff\xd9")


def test_a_large_run_length_bitmap_is_refused() -> None:
    """Pillow decodes those in Python, pixel by pixel."""
    header = struct.pack("<IHHIIiiHHIIiiII", 0, 0, 0, 54 + 1024, 40, 2000, 2000, 1, 8, 1, 0, 0, 0, 0, 0)
    data = b"BM" + header + bytes(1024) + b"\xff\x00" * 20
    assert "run-length coded BMP of 2000x2000" in refusal(data, max_pixels=10_000_000)


def test_a_small_run_length_bitmap_is_read() -> None:
    """Small ones are welcome."""
    palette = b"".join(bytes((value, value, value, 0)) for value in range(256))
    header = struct.pack("<IHHIIiiHHIIiiII", 0, 0, 0, 54 + 1024, 40, 28, 28, 1, 8, 1, 0, 0, 0, 0, 0)
    data = b"BM" + header + palette + b"\x1c\x64\x00\x00" * 28 + b"\x00\x01"
    assert set(run(data, GREY).pixels.ravel()) == {100}


@settings(max_examples=300, deadline=None)
@given(
    st.binary(max_size=200),
    st.sampled_from([b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"BM", b"RIFF\x20\0\0\0WEBPVP8 "]),
)
def test_random_bytes_are_refused(body: bytes, magic: bytes) -> None:
    """Noise, with or without the right beginning, is never anything but an invalid request."""
    with pytest.raises(InvalidRequestError):
        run(magic + body)


@settings(max_examples=500, deadline=None)
@given(
    st.sampled_from(sorted(SAMPLES)),
    st.lists(st.tuples(st.integers(0, 2**31), st.integers(0, 255)), min_size=1, max_size=8),
    st.sampled_from([STRETCH, PAD, CROP, GLYPH]),
    st.booleans(),
)
def test_damaged_files_are_read_or_refused(
    name: str, changes: list[tuple[int, int]], policy: DecodePolicy, in_header: bool
) -> None:
    """A changed byte gives an image or an invalid request, never another error."""
    data = bytearray(SAMPLES[name])
    for position, value in changes:
        data[position % (64 if in_header else len(data))] = value
    with contextlib.suppress(InvalidRequestError):
        assert run(bytes(data), policy=policy).pixels.shape == RGB.shape


def test_many_threads_decode_at_once() -> None:
    """Threads share nothing: each gets the pixels of its own file."""
    images = [random_pixels(64, 64, 3) // (index + 1) for index in range(16)]
    files = [file_of(Image.fromarray(pixels)) for pixels in images]
    alone = [run(data).pixels.tobytes() for data in files]
    decode_one: Callable[[int], bytes] = lambda index: run(files[index % 16]).pixels.tobytes()  # noqa: E731
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(decode_one, range(160)))
    assert together == alone * 10
