"""What counts as a model and as a version."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from convserve import repository
from convserve.errors import ConfigError


def make(root: Path, *paths: str) -> None:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()


def test_versions_are_positive_integers_with_a_manifest(tmp_path: Path) -> None:
    """Copies under way, staging directories, notes and odd names are not versions."""
    make(
        tmp_path,
        "mnist/1/manifest.json",
        "mnist/12/manifest.json",
        "mnist/3/model.onnx",  # still being copied
        "mnist/0/manifest.json",
        "mnist/07/manifest.json",
        "mnist/.staging-4/manifest.json",
        "mnist/latest/manifest.json",
        "mnist/labels.txt",
        ".hidden/1/manifest.json",
        "README.md",
        "empty/labels.txt",
    )
    found = repository.scan(tmp_path)
    assert {model: sorted(versions) for model, versions in found.items()} == {"empty": [], "mnist": [1, 12]}
    assert found["mnist"][12].directory == tmp_path / "mnist/12"


def test_a_missing_repository_is_a_clear_error(tmp_path: Path) -> None:
    """It names the setting and the path."""
    with pytest.raises(ConfigError, match=r"model_repository: .*nowhere cannot be read"):
        repository.scan(tmp_path / "nowhere")


def test_a_version_may_be_a_symbolic_link(tmp_path: Path) -> None:
    """Kubernetes mounts and blue-green copies work by links."""
    make(tmp_path, "store/a/manifest.json")
    (tmp_path / "repo/mnist").mkdir(parents=True)
    (tmp_path / "repo/mnist/1").symlink_to(tmp_path / "store/a")
    assert list(repository.scan(tmp_path / "repo")["mnist"]) == [1]


def test_what_cannot_be_looked_at_hides_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A version that we have no permission for is found, so that loading tells why; a model without versions is not."""
    make(tmp_path, "mnist/1/manifest.json", "mnist/2/manifest.json", "private/1/manifest.json")
    refused = {tmp_path / "mnist/2/manifest.json", tmp_path / "private"}
    stat = Path.stat

    def guarded(path: Path, **how: bool) -> os.stat_result:
        if path in refused:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return stat(path, **how)

    monkeypatch.setattr(Path, "stat", guarded)
    found = repository.scan(tmp_path)
    assert {model: sorted(versions) for model, versions in found.items()} == {"mnist": [1, 2]}


def test_a_circle_of_links_is_no_version(tmp_path: Path) -> None:
    """It leads nowhere, like a link whose end is missing."""
    make(tmp_path, "mnist/1/manifest.json")
    (tmp_path / "mnist/2").symlink_to("3")
    (tmp_path / "mnist/3").symlink_to("2")
    (tmp_path / "mnist/4").symlink_to("nowhere")
    assert list(repository.scan(tmp_path)["mnist"]) == [1]
