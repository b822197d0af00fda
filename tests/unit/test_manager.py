"""What the manager does besides following the repository; its states are in test_version_states."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from convserve import manifest as manifests
from convserve.config import ModelSettings, Settings
from convserve.errors import ConfigError, UnavailableError, VersionNotAvailableError
from convserve.lifecycle import VersionState
from convserve.loading import Loader
from convserve.manager import Manager
from convserve.metrics import Metrics
from convserve.registry import Registry
from convserve.repository import FoundVersion
from support import versions
from support.clock import Clock


def manage(root: Path, model: ModelSettings | None = None) -> tuple[Manager, Registry]:
    """A manager that has looked at the repository once."""
    registry = Registry()
    settings = Settings(model_repository=root, models={"stripes": model or ModelSettings()})
    manager = Manager(settings, registry, Metrics(CollectorRegistry(), "test"), 1)
    manager.reconcile()
    return manager, registry


def test_a_model_that_is_loaded_before_it_is_looked_for_has_its_routes(tmp_path: Path) -> None:
    """LoadModel brings a new model with the aliases, split and shadow that the settings want for it."""
    root = tmp_path / "repository"
    root.mkdir()
    manager, registry = manage(root, ModelSettings(aliases={"stable": 1, "canary": 2}, split={"canary": 10.0}))
    for number in (1, 2):
        versions.write_version(root, version=number)
    assert manager.load("stripes", 2) == 2
    assert dict(registry.routes("stripes").aliases) == {"stable": 1, "canary": 2}
    assert dict(registry.routes("stripes").split) == {"canary": 10.0}
    assert registry.default_version("stripes") == 1
    manager.close()


def test_permissions_that_were_mended_are_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A version that could not be read fails with its reason, and is tried again once it can be."""
    root = tmp_path / "repository"
    manifest = versions.write_version(root) / "manifest.json"
    read, access = manifests.read_file, os.access
    private = {manifest}

    def guarded(path: Path) -> bytes:
        if path in private:
            raise PermissionError(13, "Permission denied", str(path))
        return read(path)

    monkeypatch.setattr(manifests, "read_file", guarded)
    monkeypatch.setattr(os, "access", lambda path, mode: path not in private and access(path, mode))
    manager, registry = manage(root)
    failed = registry.models()["stripes"][1]
    assert failed.state is VersionState.FAILED
    assert "manifest.json: cannot be read (Permission denied)" in failed.reason
    private.clear()
    manager.reconcile()
    assert registry.default_version("stripes") == 1
    manager.close()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The manager's time."""
    made = Clock(1000.0)
    monkeypatch.setattr("convserve.manager.monotonic", made)
    return made


def test_a_file_that_comes_after_the_manifest_is_waited_for(tmp_path: Path, clock: Clock) -> None:
    """As of a plain copy into the repository; nobody has to touch the version for it to be found."""
    root = tmp_path / "repository"
    model = versions.write_version(root) / "model.onnx"
    content = model.read_bytes()
    model.unlink()
    manager, registry = manage(root)
    assert registry.models()["stripes"][1].state is VersionState.FAILED
    model.write_bytes(content)
    clock.now += 14
    manager.reconcile()
    assert registry.default_version("stripes") == 0
    clock.now += 1
    manager.reconcile()
    assert registry.default_version("stripes") == 1
    manager.close()


def test_a_version_that_goes_on_failing_is_tried_less_and_less_often(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After 15 seconds, twice as long each time, and every 10 minutes in the end; meanwhile the older one answers."""
    root = tmp_path / "repository"
    versions.write_version(root)
    (versions.write_version(root, version=2) / "model.onnx").unlink()
    tried: list[float] = []
    load = Loader.load

    def noted(self: Loader, found: FoundVersion, *args: Any, **how: Any) -> Any:
        if found.version == 2:
            tried.append(clock.now)
        return load(self, found, *args, **how)

    monkeypatch.setattr(Loader, "load", noted)
    manager, registry = manage(root)
    while len(tried) < 9:
        clock.now += 5
        assert not manager.reconcile()
        assert registry.models()["stripes"][2].state is VersionState.FAILED
        assert registry.default_version("stripes") == 1
    assert np.diff(tried).tolist() == [15, 30, 60, 120, 240, 480, 600, 600]
    manager.close()


def test_a_failed_version_that_is_not_wanted_any_more_stays_failed(tmp_path: Path, clock: Clock) -> None:
    """A newer one answers: there is nothing to try it for, and its reason stays to be read."""
    root = tmp_path / "repository"
    (versions.write_version(root) / "model.onnx").unlink()
    manager, registry = manage(root)
    versions.write_version(root, version=2)
    clock.now += 1000
    manager.reconcile()
    assert registry.default_version("stripes") == 2
    assert registry.models()["stripes"][1].state is VersionState.FAILED
    manager.close()


def test_new_content_that_could_not_be_loaded_is_tried_again(tmp_path: Path, clock: Clock) -> None:
    """The version answers as it was proved all the while."""
    root = tmp_path / "repository"
    directory = versions.write_version(root)
    manager, registry = manage(root)
    first = registry.models()["stripes"][1].digest
    versions.write_version(tmp_path / "other", seed=1)
    for path in (tmp_path / "other/stripes/1").iterdir():
        path.replace(directory / path.name)
    model = directory / "model.onnx"
    content = model.read_bytes()
    model.unlink()
    manager.reconcile()
    status = registry.models()["stripes"][1]
    assert (status.state, status.digest) == (VersionState.AVAILABLE, first)
    assert "still serving what was proved before" in status.reason
    model.write_bytes(content)
    manager.reconcile()
    assert registry.models()["stripes"][1].digest == first
    clock.now += 15
    manager.reconcile()
    status = registry.models()["stripes"][1]
    assert (status.state, status.reason) == (VersionState.AVAILABLE, "")
    assert status.digest != first
    manager.close()


def test_a_version_that_could_not_be_loaded_on_request_leaves_nothing_behind(tmp_path: Path, clock: Clock) -> None:
    """Whoever asked was told so: it is not loaded later, stands in nobody's way, and other workers need not know."""
    root = tmp_path / "repository"
    model = versions.write_version(root) / "model.onnx"
    versions.write_version(root, version=2)
    manager, registry = manage(root)
    content = model.read_bytes()
    model.unlink()
    before = manager.wishes()
    with pytest.raises(VersionNotAvailableError):
        manager.load("stripes", 1)
    with pytest.raises(VersionNotAvailableError):
        manager.set_alias("stripes", "canary", 1)
    assert manager.wishes() == before
    model.write_bytes(content)
    versions.write_version(root, version=3)
    clock.now += 1000
    manager.reconcile()
    assert [one.manifest.version for one in registry.loaded()] == [3]
    manager.close()


def test_a_version_that_an_alias_brought_goes_when_the_alias_does(tmp_path: Path) -> None:
    """Or the server would hold every version that an alias ever stood for."""
    root = tmp_path / "repository"
    for number in range(1, 5):
        versions.write_version(root, version=number)
    manager, registry = manage(root)
    for number in (1, 2, 3):
        assert manager.set_alias("stripes", "stable", number) == {"stable": number}
        manager.reconcile()
        assert sorted(one.manifest.version for one in registry.loaded()) == [number, 4]
    assert manager.load("stripes", 3) == 3
    manager.set_alias("stripes", "stable", 4)
    manager.reconcile()
    assert sorted(one.manifest.version for one in registry.loaded()) == [3, 4]
    manager.close()


def test_what_could_not_be_unloaded_stays(tmp_path: Path) -> None:
    """The caller is told that nothing was unloaded; nor is it later, when the repository can be read again."""
    root = tmp_path / "repository"
    for number in (1, 2):
        versions.write_version(root, version=number)
    manager, registry = manage(root)
    root.rename(tmp_path / "away")
    with pytest.raises(ConfigError):
        manager.unload("stripes", 2)
    (tmp_path / "away").rename(root)
    manager.reconcile()
    assert [one.manifest.version for one in registry.loaded()] == [2]
    manager.close()


def test_nothing_is_loaded_once_the_end_has_come(tmp_path: Path) -> None:
    """A look at the repository that waited for its turn meanwhile would load everything again."""
    root = tmp_path / "repository"
    versions.write_version(root)
    manager, registry = manage(root)
    manager.close()
    assert manager.reconcile() == []
    with pytest.raises(UnavailableError):
        manager.load("stripes", 1)
    assert registry.loaded() == []


def test_a_failure_can_be_told_whatever_files_are_called(tmp_path: Path) -> None:
    """Names of files are bytes; messages are not, and a call that could not be refused would never be answered."""
    root = tmp_path / "mod\udce8les"
    (versions.write_version(root) / "model.onnx").unlink()
    manager, registry = manage(root)
    reason = registry.models()["stripes"][1].reason
    assert "mod\\udce8les/stripes/1/model.onnx" in reason
    reason.encode()
    manager.close()


def test_what_was_asked_of_a_new_model_can_be_taken_back(tmp_path: Path) -> None:
    """Other workers follow what was wished before; before, nobody knew the model, so nothing was wished of it."""
    root = tmp_path / "repository"
    versions.write_version(root)
    manager, registry = manage(root)
    before = manager.wishes()
    for number in (1, 2):
        versions.write_version(root, model="new", version=number)
    manager.load("new", 1)
    assert registry.is_loaded("new", 1)
    manager.follow(before)
    assert not registry.is_loaded("new", 1)
    assert registry.default_version("new") == 2
    manager.close()
