"""Fixtures for all tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from support import versions


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A model repository with version 1 of the small model `stripes`."""
    root = tmp_path / "repository"
    versions.write_version(root)
    return root
