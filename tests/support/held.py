"""Proofs and batches that wait until the test lets them go on, in real server processes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

_SITE_OF_PROOFS = """
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


_SITE_OF_BATCHES = """
import os, pathlib, time
from convserve.runtimes.onnx import OnnxRuntime

here = pathlib.Path(__file__).parent
run = OnnxRuntime.run

def run_when_allowed(self, images):
    held = here / f"held-{os.getpid()}"
    try:
        (here / "hold").rename(held)  # by one process only
    except FileNotFoundError:
        pass
    while held.exists():
        time.sleep(0.01)
    return run(self, images)

OnnxRuntime.run = run_when_allowed
"""


def _site(directory: Path, code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have processes run this when they start."""
    directory.mkdir()
    (directory / "sitecustomize.py").write_text(code)
    path = [str(directory), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path))


class HeldBatch:
    """Holds one batch, in one of the processes that are started while it is there."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._directory = directory
        _site(directory, _SITE_OF_BATCHES, monkeypatch)

    def hold(self) -> None:
        """Have the next batch wait, and those that follow in its process."""
        (self._directory / "hold").touch()

    def release(self) -> None:
        """Let them go on."""
        for path in self._directory.glob("held-*"):
            path.unlink()

    def process(self) -> int:
        """The process whose batch waits; 0: none does yet."""
        return next((int(path.name.rpartition("-")[2]) for path in self._directory.glob("held-*")), 0)


class HeldProofs:
    """Holds versions in the processes that are started while it is there."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._directory = directory
        _site(directory, _SITE_OF_PROOFS, monkeypatch)

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
