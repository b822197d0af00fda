"""A folder of labelled images becomes a data set; what is wrong with a file is said with its name."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from convserve.manifest import DecodePolicy, InputSpec
from convtrain import files
from convtrain.datasets import Dataset, folder, load
from convtrain.errors import DatasetError

SPEC = InputSpec(height=6, width=5, channels=3)


def load_folder(root: Path, spec: InputSpec = SPEC) -> Dataset:
    return folder.load(root, "pets", spec, DecodePolicy(), root.parent / "cache")


def test_images_come_in_the_order_of_labels_and_names(image_folder: Path) -> None:
    """Labels are sorted, files within a label too."""
    dataset = load_folder(image_folder)
    assert dataset.labels == ("cat", "dog")
    assert dataset.train.images[:, 0, 0, 0].tolist() == [0, 1, 2, 10, 11, 12]
    assert dataset.train.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert dataset.test.images[:, 0, 0, 0].tolist() == [0, 10]


def test_images_are_brought_to_the_model_s_size(image_folder: Path) -> None:
    """Any size and colour mode becomes what the network takes, by the server's own decoder."""
    Image.new("L", (50, 60), 77).save(image_folder / "train/cat/3.png")
    dataset = load_folder(image_folder)
    assert dataset.train.images.shape == (7, 6, 5, 3)
    assert dataset.train.images[3].tolist() == np.full((6, 5, 3), 77).tolist()
    assert load_folder(image_folder, InputSpec(height=8, width=8, channels=1)).train.images.shape == (7, 8, 8, 1)


def test_pixels_are_decoded_once(image_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second time they come from the cache; a changed file or a damaged cache is noticed."""
    first = load_folder(image_folder)
    with monkeypatch.context() as patch:
        patch.delattr(folder, "_decode")
        again = load_folder(image_folder)
    assert again.train.digest() == first.train.digest()
    changed = image_folder / "train/dog/0.png"
    Image.new("RGB", (5, 6), (99, 99, 99)).save(changed)
    os.utime(changed, ns=(1, 1))
    assert load_folder(image_folder).train.images[3, 0, 0, 0] == 99
    (cached,) = (image_folder.parent / "cache").iterdir()
    cached.write_bytes(cached.read_bytes()[:100])
    assert load_folder(image_folder).train.images[3, 0, 0, 0] == 99


def test_a_copy_that_another_process_replaces_is_not_mixed_up(
    image_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two trainings may want one folder in one size and decoded in two ways."""
    wanted = load_folder(image_folder).train.images
    read, cache = files.read_arrays, image_folder.parent / "cache"

    def read_and_lose(path: Path, *names: list[str]) -> files.Arrays:
        found = read(path, *names)
        if "fingerprint" in found:
            files.write_arrays(path, {"fingerprint": np.array("other"), "images": np.zeros((8, 6, 5, 3), np.uint8)})
        return found

    monkeypatch.setattr(files, "read_arrays", read_and_lose)
    np.testing.assert_array_equal(load_folder(image_folder).train.images, wanted)
    assert len(list(cache.iterdir())) == 1


def test_a_cache_that_cannot_be_written_costs_time_alone(
    image_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its disk is full, or it is read-only: what was decoded is used all the same."""
    (image_folder.parent / "cache").write_text("no directory")
    assert len(load_folder(image_folder).train) == 6
    assert "cannot be written (File exists); next time the images are decoded anew" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        ("rm -r test", "test: there is no such folder"),
        ("rm -r train", "train: there is no such folder"),
        ("rm test/dog/0.png", "test/dog: holds no images"),
        ("rm -r test/dog", "only one of them has dog"),
        ("rm -r test/dog train/dog", "only the label cat"),
        ("mkdir test/fish && cp test/dog/0.png test/fish", "only one of them has fish"),
        ("echo hello > train/cat/notes.txt", "notes.txt: not an image file"),
        ("echo hello > train/notes.txt", "notes.txt: is not a folder"),
        ("echo hello > train/cat/1.png", "train/cat/1.png: "),
        ("truncate -s 45 train/cat/1.png", "train/cat/1.png: .*damaged"),
        ("truncate -s 0 test/dog/0.png", "test/dog/0.png: is empty"),
        ("mkfifo train/cat/pipe.png", "train/cat/pipe.png: is no file"),
        ("mkdir train/cat/more.png", "train/cat/more.png: is no file"),
    ],
)
def test_what_is_wrong_is_named(image_folder: Path, damage: str, why: str) -> None:
    """Missing folders, labels that differ, and files that are no images."""
    assert os.system(f"cd {image_folder} && {damage}") == 0
    with pytest.raises(DatasetError, match=why):
        load_folder(image_folder)


def test_a_folder_without_splits_is_divided(tmp_path: Path) -> None:
    """A fifth of each label is held out, the same images every time; nothing is in both splits."""
    root = tmp_path / "pets"
    for index, label in enumerate(("cat", "dog")):
        (root / label).mkdir(parents=True)
        for number in range(10):
            Image.new("RGB", (6, 5), (100 * index + number,) * 3).save(root / label / f"{number}.png")
    dataset = load_folder(root)
    assert (len(dataset.train), len(dataset.test)) == (16, 4)
    assert dataset.test.labels.tolist() == [0, 0, 1, 1]
    assert "held out" in dataset.note
    pixels = [set(split.images[:, 0, 0, 0].tolist()) for split in (dataset.train, dataset.test)]
    assert pixels[0] | pixels[1] == {*range(10), *range(100, 110)}
    assert not pixels[0] & pixels[1]
    np.testing.assert_array_equal(load_folder(root).test.images, dataset.test.images)
    (root / "fish").mkdir()
    with pytest.raises(DatasetError, match="fish: holds no images"):
        load_folder(root)


@pytest.mark.parametrize("name", ["train", "test"])
def test_a_label_may_be_called_like_a_split(image_folder: Path, name: str) -> None:
    """Splits hold folders, or there is nothing beside them; anything else of that name is a label."""
    for label in ("bus", name):
        shutil.copytree(image_folder / "train/cat", image_folder.parent / "traffic" / label)
        (image_folder.parent / "traffic" / label / ".ipynb_checkpoints").mkdir()
    dataset = load_folder(image_folder.parent / "traffic")
    assert dataset.labels == tuple(sorted(("bus", name)))
    assert "held out" in dataset.note
    for split in ("train", "test"):
        (image_folder / split / "cat").rename(image_folder / split / name)
    dataset = load_folder(image_folder)
    assert dataset.labels == tuple(sorted(("dog", name)))
    assert dataset.note == ""


def test_images_that_lie_in_splits_without_labels_are_no_labels(image_folder: Path) -> None:
    """Nobody wants to tell training images from test images."""
    for split in ("train", "test"):
        for path in (image_folder / split / "cat").iterdir():
            path.rename(image_folder / split / path.name)
        shutil.rmtree(image_folder / split / "cat")
        shutil.rmtree(image_folder / split / "dog")
    with pytest.raises(DatasetError, match=r"train/0.png: is not a folder; wanted is one folder of images for each"):
        load_folder(image_folder)


def test_something_must_be_left_to_test_on(tmp_path: Path) -> None:
    """A fifth of two images is none."""
    root = tmp_path / "pets"
    for label in ("cat", "dog"):
        (root / label).mkdir(parents=True)
        Image.new("RGB", (6, 5)).save(root / label / "0.png")
    with pytest.raises(DatasetError, match="pets: holds 2 images, too few to hold out a fifth of them"):
        load_folder(root)


def test_files_may_have_any_names(image_folder: Path) -> None:
    """Also such as are no UTF-8, as archives of other systems unpack to."""
    (image_folder / "train/cat/0.png").rename(image_folder / "train/cat" / os.fsdecode(b"caf\xe9.png"))
    assert load_folder(image_folder).train.images[:, 0, 0, 0].tolist() == [1, 2, 0, 10, 11, 12]
    assert load_folder(image_folder).train.images[:, 0, 0, 0].tolist() == [1, 2, 0, 10, 11, 12]


@pytest.mark.parametrize("name", [b"c\xe9", b"c\nat", b"cat\x1b[31m", "c\u2028at".encode()])
def test_labels_are_text_of_one_line(image_folder: Path, name: bytes) -> None:
    """Files of labels have one in each line, and manifests are UTF-8."""
    for split in ("train", "test"):
        (image_folder / split / "cat").rename(image_folder / split / os.fsdecode(name))
    with pytest.raises(DatasetError, match="cannot be a label; wanted is UTF-8 without line breaks"):
        load_folder(image_folder)


def test_labels_of_all_languages_are_fine(image_folder: Path) -> None:
    """Spaces and invisible joiners are part of words."""
    for split in ("train", "test"):
        (image_folder / split / "cat").rename(image_folder / split / "گربه\u200cها a")
    assert load_folder(image_folder).labels == ("dog", "گربه\u200cها a")


def test_a_folder_that_is_not_used_is_told_of(image_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Whoever made a third split, to validate on, must not think that it was."""
    assert load_folder(image_folder).note == ""
    shutil.copytree(image_folder / "test", image_folder / "val")
    assert load_folder(image_folder).note == "Not used, being neither train nor test: 'val'."
    assert "Images to validate on are cut from train." in " ".join(capsys.readouterr().err.split())
    for number in range(6):
        (image_folder / os.fsdecode(b"v\xff\n%d" % number)).mkdir()
    note = load_folder(image_folder).note
    assert note.isprintable()
    assert note.endswith(" and 2 more.")


def test_hidden_files_do_not_count(image_folder: Path) -> None:
    """What file managers leave behind is no error."""
    (image_folder / "train/.DS_Store").write_bytes(b"x")
    (image_folder / "train/cat/.DS_Store").write_bytes(b"x")
    assert len(load_folder(image_folder).train) == 6


def test_the_folder_s_name_is_the_data_set_s(image_folder: Path) -> None:
    """Loaded by kind, a folder goes by its own name, and has to be given."""
    assert load("folder", image_folder, SPEC, DecodePolicy()).name == "folder"
    with pytest.raises(DatasetError, match="--data-dir is missing"):
        load("folder", None, SPEC, DecodePolicy())
    with pytest.raises(DatasetError, match="there is no such file or directory"):
        load("folder", image_folder / "nowhere", SPEC, DecodePolicy())
