"""Where images come from."""

from __future__ import annotations

import io
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from convserve.errors import ConfigError
from convserve.loadtest import samples
from convserve.loadtest.samples import ModelFacts, Sample

MODEL = ModelFacts((4, 6, 1), ("cat", "dog"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for label, value in (("dog", 200), ("cat", 10), ("fish", 90)):
        (tmp_path / label).mkdir()
        for number in range(4):
            Image.new("RGB", (12, 8), (value, value, value)).save(tmp_path / label / f"{number}.png")
    (tmp_path / "dog/notes.txt").write_text("no image")
    return tmp_path


def test_a_folder_gives_files_with_labels(folder: Path) -> None:
    """Labels by the class's name, not by its place in the folder; a class that the model does not know has none."""
    loaded = samples.load(str(folder), "encoded", MODEL, 100, 0)
    assert Counter(sample.label for sample in loaded) == {0: 4, 1: 4, None: 4}
    assert {sample.content for sample in loaded if sample.label == 0} == {(folder / "cat/0.png").read_bytes()}


def test_packed_images_have_the_models_shape(folder: Path) -> None:
    """Decoded, resized and grey where the model is."""
    first = next(one.content for one in samples.load(str(folder), "packed", MODEL, 100, 0) if one.label == 0)
    assert isinstance(first, np.ndarray)
    assert first.shape == (4, 6, 1)
    assert first.ravel().tolist() == [10] * 24


def test_few_samples_are_spread_over_all_classes(folder: Path) -> None:
    """Not the first so many."""
    assert {one.label for one in samples.load(str(folder), "encoded", MODEL, 3, 0)} == {0, 1, None}


def test_samples_come_in_random_order(folder: Path) -> None:
    """A run too short for all of them would see some classes only; the seed decides."""
    one, same, other = ([one.label for one in samples.load(str(folder), "encoded", MODEL, 12, n)] for n in (1, 1, 2))
    assert one == same != other
    assert set(one[:6]) == {0, 1, None}


def first_pixel(sample: Sample) -> int:
    assert isinstance(sample.content, np.ndarray)
    return int(sample.content.flat[0])


@pytest.mark.parametrize("names", [("images", "labels"), ("test_images", "test_labels")])
def test_an_npz_file_gives_pixels(tmp_path: Path, names: tuple[str, str]) -> None:
    """As they are, or as PNG."""
    images = np.arange(3 * 24, dtype=np.uint8).reshape(3, 4, 6, 1)
    arrays = {names[0]: images, names[1]: np.array([1, 0, 1])}
    np.savez(tmp_path / "x.npz", **arrays)  # type: ignore[arg-type]  # mypy takes the first for `allow_pickle`
    loaded = samples.load(str(tmp_path / "x.npz"), "packed", MODEL, 10, 0)
    assert [one.label for one in sorted(loaded, key=first_pixel)] == [1, 0, 1]
    assert np.array_equal(np.stack([one.content for one in sorted(loaded, key=first_pixel)]), images)
    found = samples.load(str(tmp_path / "x.npz"), "encoded", MODEL, 10, 0)
    (encoded,) = (one.content for one in found if one.label == 0)
    assert isinstance(encoded, bytes)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(encoded))), images[1, :, :, 0])


def test_synthetic_images_follow_the_seed() -> None:
    """Noise in the model's shape, without labels."""
    one, same, other = (samples.load("synthetic", "packed", MODEL, 5, seed) for seed in (1, 1, 2))
    assert np.array_equal(one[4].content, same[4].content)
    assert not np.array_equal(one[4].content, other[4].content)
    assert one[0].label is None


def test_what_cannot_be_used_is_named(tmp_path: Path) -> None:
    """The file, what is in it and what is wanted."""
    with pytest.raises(ConfigError, match="neither a folder"):
        samples.load(str(tmp_path / "nothing"), "packed", MODEL, 1, 0)
    with pytest.raises(ConfigError, match="holds no images"):
        samples.load(str(tmp_path), "packed", MODEL, 1, 0)
    np.savez(tmp_path / "a.npz", pictures=np.zeros(3))
    with pytest.raises(ConfigError, match="holds pictures; wanted is one of images"):
        samples.load(str(tmp_path / "a.npz"), "packed", MODEL, 1, 0)
    np.savez(tmp_path / "b.npz", images=np.zeros((2, 5, 5, 1), np.uint8))
    with pytest.raises(ConfigError, match=r"uint8 \[2, 5, 5, 1\]; the model takes uint8 \[-1, 4, 6, 1\]"):
        samples.load(str(tmp_path / "b.npz"), "packed", MODEL, 1, 0)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken/x.png").write_bytes(b"no image")
    with pytest.raises(ConfigError, match=r"x\.png cannot be decoded"):
        samples.load(str(tmp_path / "broken"), "packed", MODEL, 1, 0)


@pytest.mark.parametrize("content", [b"", b"no zip", b"PK\3\4 cut short"], ids=["empty", "something else", "cut short"])
def test_a_damaged_npz_file_is_a_sentence(tmp_path: Path, content: bytes) -> None:
    """Not NumPy's exceptions."""
    (tmp_path / "x.npz").write_bytes(content)
    with pytest.raises(ConfigError, match=r"x\.npz cannot be read"):
        samples.load(str(tmp_path / "x.npz"), "packed", MODEL, 1, 0)


@pytest.mark.parametrize("place", ["content", "flags"])
def test_an_npz_file_that_is_damaged_inside_is_a_sentence(tmp_path: Path, place: str) -> None:
    """Nor zlib's, nor zipfile's of encrypted ones."""
    path = tmp_path / "x.npz"
    np.savez_compressed(path, images=np.zeros((9, 4, 6, 1), np.uint8))
    data = bytearray(path.read_bytes())
    at = 60 if place == "content" else data.index(b"PK\1\2") + 8
    data[at : at + 12] = data[at : at + 12].translate(bytes((byte + 1) % 256 for byte in range(256)))
    path.write_bytes(data)
    with pytest.raises(ConfigError, match=r"x\.npz cannot be read"):
        samples.load(str(path), "packed", MODEL, 1, 0)


def test_an_array_called_npz_is_a_sentence(tmp_path: Path) -> None:
    """NumPy reads it as what it is, not as what it is called."""
    with (tmp_path / "x.npz").open("wb") as file:
        np.save(file, np.zeros((9, 4, 6, 1), np.uint8))
    with pytest.raises(ConfigError, match=r"x\.npz cannot be read"):
        samples.load(str(tmp_path / "x.npz"), "packed", MODEL, 1, 0)


def test_an_image_too_large_to_decode_is_a_sentence(tmp_path: Path) -> None:
    """Pillow's own class of errors."""
    Image.new("1", (20_000, 20_000)).save(tmp_path / "x.png")
    with pytest.raises(ConfigError, match=r"x\.png cannot be decoded: .* could be decompression bomb"):
        samples.load(str(tmp_path), "packed", MODEL, 1, 0)


def test_labels_that_are_no_numbers_are_a_sentence(tmp_path: Path) -> None:
    """Names of classes are known from folders, not from arrays."""
    np.savez(tmp_path / "x.npz", images=np.zeros((1, 4, 6, 1), np.uint8), labels=np.array(["cat"]))
    with pytest.raises(ConfigError, match="invalid literal for int"):
        samples.load(str(tmp_path / "x.npz"), "packed", MODEL, 1, 0)
