"""`convtrain table` puts what is published side by side."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

from convserve import manifest
from convtrain.architectures import Architecture, Flatten
from convtrain.cli import run
from support import versions


@pytest.fixture
def described(repository: Path) -> Path:
    """A repository whose version says what its layers are."""
    directory = repository / "stripes/1"
    content, _ = manifest.read(directory)
    training = msgspec.structs.replace(
        content.training, architecture=msgspec.to_builtins(Architecture(layers=(Flatten(),)))
    )
    trial = manifest.VariantTrial(
        published=False,
        verdict="not faster",
        accuracy=0.9,
        validation_loss_points=None,
        test_loss_points=0.25,
        max_abs_diff_probabilities=0.1,
        speedup={"1": 0.9, "64": 1.25},
        load_speedup=1.0,
        bytes=10,
        processor="x",
    )
    manifest.write(directory, msgspec.structs.replace(content, training=training, trials={"int8": trial}))
    return repository


def test_every_version_is_a_row(described: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Figures from the manifest, multiply-adds from the layers, times from this machine."""
    versions.write_version(described, "without-layers-described")
    assert run(["table", str(described / "nothing")]) == 1
    assert "there is no complete version" in capsys.readouterr().err
    assert run(["table", str(described)]) == 1
    assert "without-layers-described version 1: training.architecture: " in capsys.readouterr().err
    (described / "without-layers-described/1/manifest.json").unlink()
    assert run(["table", str(described), "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["model"], row["multiply_adds"], row["parameters"]) == ("stripes", 64 * 4, 256)
    assert 0 < row["milliseconds"]["1"] < 1000
    assert run(["table", str(described)]) == 0
    text = capsys.readouterr().out
    assert "| `by-hand` | stripes 1 | 100.00 % |" in text
    assert "refused: 0.90 and 1.25 times as fast, -0.25 points of accuracy" in text


def test_the_table_goes_to_its_place_in_a_page(
    described: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Between two marks, and nothing else of the page changes."""
    page = tmp_path / "models.md"
    page.write_text("before\n<!-- table: begin -->\nold\n<!-- table: end -->\nafter\n")
    for _ in range(2):
        assert run(["table", str(described), "--write", str(page)]) == 0
        text = page.read_text()
        assert text.startswith("before\n<!-- table: begin -->\n| preset |")
        assert text.endswith("\n<!-- table: end -->\nafter\n")
        assert "old" not in text
    page.write_text("no marks")
    assert run(["table", str(described), "--write", str(page)]) == 1
    assert "has no place for the table" in capsys.readouterr().err
    assert page.read_text() == "no marks"
    page.write_bytes("<!-- table: begin --> café".encode("latin-1"))
    assert run(["table", str(described), "--write", str(page)]) == 1
    assert "models.md: is not UTF-8" in capsys.readouterr().err
