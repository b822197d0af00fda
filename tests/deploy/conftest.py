"""What all tests of deploy/ share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from support import versions
from support.manifests import Rendered
from support.server import ServerProcess, serving


@pytest.fixture(scope="session")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Rendered:
    return Rendered(tmp_path_factory.mktemp("kustomizations").resolve())


@pytest.fixture(scope="session")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A real server."""
    folder = tmp_path_factory.mktemp("running")
    versions.write_version(folder / "models")
    with serving(folder / "models", folder) as server:
        yield server
