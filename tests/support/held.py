"""Proofs that wait until the test lets them go on, in real server processes: loads as slow as a test wants them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

_SITE = """
import os, pathlib, time
from convserve import proving

here = pathlib.Path(__file__).parent
prove = proving.prove

def prove_when_allowed(directory, manifest, runtime, batch_sizes, **how):
    held = here / f"held-{manifest.version}"
    if held.exists():
        (here / f"waiting-{manifest.version}-{os.getpid()}").touch()
        while held.exists():
            time.sleep(0.01)
    return prove(directory, manifest, runtime, batch_sizes, **how)

proving.prove = prove_when_allowed
"""


class HeldProofs:
    """Holds versions in the processes that are started while it is there."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._directory = directory
        directory.mkdir()
        (directory / "sitecustomize.py").write_text(_SITE)
        path = [str(directory), *filter(None, [os.environ.get("PYTHONPATH")])]
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path))

    def hold(self, version: int) -> None:
        """Have every proof of this version wait from now on."""
        (self._directory / f"held-{version}").touch()

    def release(self, version: int) -> None:
        """Let the proofs of this version go on."""
        (self._directory / f"held-{version}").unlink()

    def release_all(self) -> None:
        """Let every proof go on, or a process that outlived its test would wait for ever."""
        for path in self._directory.glob("held-*"):
            path.unlink()

    def waiting(self, version: int) -> list[int]:
        """Ids of the processes that have waited with a proof of this version."""
        return sorted(int(path.name.rpartition("-")[2]) for path in self._directory.glob(f"waiting-{version}-*"))
