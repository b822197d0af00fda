"""The manifest stands for the whole directory."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from convserve import manifest as m
from convserve import proving
from convserve.errors import ArtifactError
from convserve.runtimes import open_runtime
from support import versions


def test_what_is_written_is_read(repository: Path) -> None:
    """A round trip keeps every field."""
    directory = repository / "stripes/1"
    manifest, digest = m.read(directory)
    assert manifest.labels == versions.LABELS
    assert manifest.input.shape == versions.SHAPE
    assert digest == m.sha256_file(directory / m.MANIFEST_FILE)
    m.write(directory, manifest)
    assert m.read(directory)[0] == manifest


@pytest.mark.parametrize("name", [m.ONNX_FILE, m.GOLDEN_FILE])
def test_a_changed_byte_is_found(repository: Path, name: str) -> None:
    """The error names the file and both digests."""
    path = repository / "stripes/1" / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    manifest, _ = m.read(path.parent)
    with pytest.raises(ArtifactError, match=rf"{name}: SHA-256 is \w+, the manifest says {manifest.files[name]}"):
        m.verify_files(path.parent, manifest)


def test_a_missing_file_is_named(repository: Path) -> None:
    """A listed file that is gone is an error."""
    directory = repository / "stripes/1"
    manifest, _ = m.read(directory)
    (directory / m.GOLDEN_FILE).unlink()
    with pytest.raises(ArtifactError, match=r"golden\.npz: cannot be read"):
        m.verify_files(directory, manifest)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema_version": 99}, "schema_version is 99; this program reads 1"),
        ({"surprise": 1}, "unknown field `surprise`"),
        ({"version": 0}, "`int` >= 1 - at `$.version`"),
        ({"model": "../etc"}, r"at `$.model`"),
        ({"model": "stripes\n"}, r"at `$.model`"),
        ({"labels": ["one"]}, r"at `$.labels`"),
        ({"files": {}}, "files does not list model.onnx"),
        ({"input": {"height": 2**63, "width": 1, "channels": 1}}, "at `$.input.height`"),
    ],
)
def test_a_wrong_manifest_is_refused(repository: Path, change: dict[str, object], message: str) -> None:
    """The error names the file and the field."""
    path = repository / "stripes/1" / m.MANIFEST_FILE
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(ArtifactError) as refused:
        m.read(path.parent)
    assert str(path) in str(refused.value)
    assert message in str(refused.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"class_share": [0.5, 0.5]}, "statistics.class_share has 2 entries; there are 4 labels"),
        ({"image_mean_histogram": []}, "statistics.image_mean_histogram holds no shares"),
        ({"image_std_histogram": [0.0, 0.0]}, "statistics.image_std_histogram holds no shares"),
        ({"class_share": [1.5, -0.5, 0.0, 0.0]}, "statistics.class_share holds no shares"),
    ],
)
def test_statistics_that_nothing_can_be_compared_with_are_refused(
    repository: Path, change: dict[str, object], message: str
) -> None:
    """Or the first look at how answers drift would fail, and with it every scrape of the server's metrics."""
    path = repository / "stripes/1" / m.MANIFEST_FILE
    content = json.loads(path.read_text())
    content["statistics"].update(change)
    path.write_text(json.dumps(content))
    with pytest.raises(ArtifactError) as refused:
        m.read(path.parent)
    assert message in str(refused.value)


def test_a_manifest_that_is_nested_too_deeply_is_refused(repository: Path) -> None:
    """As damaged, wherever it is read."""
    path = repository / "stripes/1" / m.MANIFEST_FILE
    tree = json.loads(path.read_text())
    tree["training"]["config"] = "HERE"
    path.write_text(json.dumps(tree).replace('"HERE"', '{"a":' * 5000 + "1" + "}" * 5000))
    with pytest.raises(ArtifactError, match="not a valid manifest"):
        m.read(path.parent)


def test_files_outside_the_version_are_refused(repository: Path) -> None:
    """A manifest cannot make a server read elsewhere."""
    path = repository / "stripes/1" / m.MANIFEST_FILE
    tree = json.loads(path.read_text())
    tree["files"]["../../secret"] = "0" * 64
    path.write_text(json.dumps(tree))
    with pytest.raises(ArtifactError, match="outside the version directory"):
        m.read(path.parent)


def test_a_name_that_no_file_can_have_is_damage(repository: Path) -> None:
    """Looking whether it is there is an error of its own."""
    directory = repository / "stripes/1"
    manifest, _ = m.read(directory)
    manifest.files["x" * 300] = "0" * 64
    with pytest.raises(ArtifactError, match="cannot be read"):
        m.verify_files(directory, manifest)


def test_a_pipe_in_the_place_of_a_file_is_not_waited_for(repository: Path) -> None:
    """Also when it came after somebody looked: seconds pass between a look at the repository and a version's turn."""
    directory = repository / "stripes/1"
    manifest, _ = m.read(directory)
    for name in (m.MANIFEST_FILE, m.GOLDEN_FILE, m.ONNX_FILE):
        (directory / name).unlink()
        os.mkfifo(directory / name)
    with pytest.raises(ArtifactError, match=r"manifest\.json: cannot be read \(it is no file\)"):
        m.read(directory)
    with pytest.raises(ArtifactError, match=r"golden\.npz: cannot be read"):
        proving.read_golden(directory, manifest)
    with pytest.raises(ArtifactError, match=r"model\.onnx: cannot be read"):
        open_runtime(directory, manifest)


def test_half_a_manifest_is_refused(repository: Path) -> None:
    """A truncated file is an error, not a crash."""
    path = repository / "stripes/1" / m.MANIFEST_FILE
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ArtifactError, match="not a valid manifest"):
        m.read(path.parent)
