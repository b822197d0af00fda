"""The checked-in generated code is what the protos say."""

from __future__ import annotations

import filecmp
import subprocess
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.timeout(300)  # the first run installs the generator into an environment of its own
def test_regeneration_changes_nothing(tmp_path: Path) -> None:
    """Byte for byte, stubs included, and no file more or less."""
    subprocess.run([ROOT / "protos/generate.sh", tmp_path], check=True, timeout=280)
    fresh = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*_pb2*")}
    kept = {path.relative_to(ROOT / "service").as_posix() for path in (ROOT / "service").rglob("*_pb2*.py*")}
    kept = {path for path in kept if "__pycache__" not in path}
    assert fresh == kept
    different = [path for path in fresh if not filecmp.cmp(tmp_path / path, ROOT / "service" / path, shallow=False)]
    assert different == []


def test_buf_lint() -> None:
    """Names, comments and layout follow buf's standard rules."""
    buf = Path(sysconfig.get_path("scripts")) / "buf"
    ended = subprocess.run([buf, "lint", ROOT / "protos"], capture_output=True, text=True, check=False, timeout=60)
    assert (ended.returncode, ended.stdout) == (0, "")
