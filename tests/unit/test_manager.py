"""What the manager does besides following the repository; its states are in test_version_states."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from convserve.config import ModelSettings, Settings
from convserve.lifecycle import VersionState
from convserve.manager import Manager
from convserve.metrics import Metrics
from convserve.registry import Registry
from support import versions


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
    read, access = Path.read_bytes, os.access
    private = {manifest}

    def guarded(path: Path) -> bytes:
        if path in private:
            raise PermissionError(13, "Permission denied", str(path))
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", guarded)
    monkeypatch.setattr(os, "access", lambda path, mode: path not in private and access(path, mode))
    manager, registry = manage(root)
    failed = registry.models()["stripes"][1]
    assert failed.state is VersionState.FAILED
    assert "manifest.json: cannot be read (Permission denied)" in failed.reason
    private.clear()
    manager.reconcile()
    assert registry.default_version("stripes") == 1
    manager.close()
