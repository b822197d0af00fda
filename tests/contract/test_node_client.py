"""The Node.js example, in its own process, against a real server."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from support import versions
from support.server import ServerProcess, serving

ROOT = Path(__file__).parents[2]
_UNREACHABLE = ("ENOTFOUND", "ECONNREFUSED", "ECONNRESET", "ETIMEDOUT", "EAI_AGAIN", "E403", "E407", "E5", "network")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    root = tmp_path_factory.mktemp("served")
    versions.write_version(root / "repository")
    with serving(root / "repository", root) as running:
        yield running


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the example with its packages installed."""
    npm = shutil.which("npm")
    if npm is None or shutil.which("node") is None:
        pytest.skip("node and npm are not installed: the Node.js example is NOT tested")
    directory = tmp_path_factory.mktemp("node") / "example"
    shutil.copytree(ROOT / "examples/node", directory, ignore=shutil.ignore_patterns("node_modules"))
    command = [npm, "install", "--no-audit", "--no-fund", "--no-package-lock", "--ignore-scripts"]
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False, timeout=100)
    if done.returncode and any(word in done.stderr for word in _UNREACHABLE):
        pytest.skip(f"the npm registry cannot be reached: the Node.js example is NOT tested\n{done.stderr[-500:]}")
    assert done.returncode == 0, done.stderr
    return directory


def run(example: Path, server: ServerProcess, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = ["node", "classify.js", "--model", "stripes", "--protos", str(ROOT / "protos"), "--target", server.target]
    return subprocess.run([*command, *arguments], cwd=example, capture_output=True, text=True, check=False, timeout=60)


def test_an_image_file_is_classified(example: Path, server: ServerProcess, tmp_path: Path) -> None:
    """With the answer that the model gives, and all classes in order."""
    (pixels,) = versions.random_images(1, seed=4)
    content = BytesIO()
    Image.fromarray(pixels[:, :, 0]).save(content, "PNG")
    (tmp_path / "image.png").write_bytes(content.getvalue())
    done = run(example, server, "--top-k", "9", "--version", "1", str(tmp_path / "image.png"))
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads(done.stdout)
    expected = versions.reference(pixels[None])[0]
    order = np.argsort(-expected, kind="stable")
    assert found["model_version"] == 1
    assert [one["label"] for one in found["predictions"]] == [versions.LABELS[index] for index in order]
    assert [one["probability"] for one in found["predictions"]] == pytest.approx(expected[order], abs=1e-5)


def test_a_bad_file_is_reported_and_the_others_are_answered(
    example: Path, server: ServerProcess, tmp_path: Path
) -> None:
    """With the status and the field."""
    (tmp_path / "bad.png").write_bytes(b"no image")
    Image.new("L", (8, 8), 3).save(tmp_path / "good.png")
    done = run(example, server, str(tmp_path / "bad.png"), str(tmp_path / "good.png"))
    assert done.returncode == 1
    assert "INVALID_ARGUMENT: encoded.images[0]" in done.stderr
    assert json.loads(done.stdout)["file"].endswith("good.png")
    unknown = run(example, server, "--version", "nightly", str(tmp_path / "good.png"))
    assert unknown.returncode == 1
    assert "NOT_FOUND" in unknown.stderr


def test_versions_are_exact_and_no_lock_file_names_a_registry() -> None:
    """The same packages everywhere, from whichever registry is at hand."""
    package = json.loads((ROOT / "examples/node/package.json").read_text())
    assert all(version[0].isdigit() for version in package["dependencies"].values())
    assert not (ROOT / "examples/node/package-lock.json").exists()
