"""The models that benchmarks are run with."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import light
from convserve import manifest as manifests
from convserve import proving
from convserve.runtimes.onnx import OnnxRuntime


@pytest.mark.parametrize("name", [light.NAME, light.HEAVY])
def test_they_can_be_served(name: str, tmp_path: Path) -> None:
    """Complete versions, which hold their golden answers."""
    directory = light.write_version(tmp_path, name)
    manifest, _ = manifests.read(directory)
    manifests.verify_files(directory, manifest)
    runtime = OnnxRuntime(directory, manifest, intra_op_threads=1)
    assert proving.prove(directory, manifest, runtime, [1, 4])
    runtime.close()
