"""The wheel that users install."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(out)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=60)
    (built,) = out.glob("*.whl")
    return built


def test_it_holds_both_packages_and_their_types(wheel: Path) -> None:
    """Convserve and convtrain, generated code, py.typed; no tests and no models."""
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {
        "convserve/__init__.py",
        "convserve/py.typed",
        "convserve/v1/classification_pb2.py",
        "convserve/v1/classification_pb2.pyi",
        "convserve/server/app.py",
        "convtrain/__init__.py",
        "convtrain/py.typed",
    } <= names
    assert {name.partition("/")[0] for name in names if "dist-info" not in name} == {"convserve", "convtrain"}


def test_the_base_install_is_the_client(wheel: Path) -> None:
    """Three requirements without an extra; each extra of the contract exists."""
    archive = zipfile.ZipFile(wheel)
    (name,) = (name for name in archive.namelist() if name.endswith("METADATA"))
    metadata = Parser().parsestr(archive.read(name).decode())
    base = {line.partition(">")[0] for line in metadata.get_all("Requires-Dist", []) if "extra ==" not in line}
    assert base == {"grpcio", "numpy", "protobuf"}
    assert set(metadata.get_all("Provides-Extra", [])) >= {"server", "tensorflow", "train", "gpu"}


def test_it_works_without_the_extras(wheel: Path, tmp_path: Path) -> None:
    """The client and its commands run from the wheel; `serve` and `convtrain` say which extra is missing."""
    missing = ("msgspec", "onnxruntime", "structlog", "PIL", "prometheus_client", "tensorflow", "keras", "rich")
    blocker = f"import sys\nfor name in {missing!r}: sys.modules[name] = None\n"
    zipfile.ZipFile(wheel).extractall(tmp_path)

    def run(code: str) -> subprocess.CompletedProcess[str]:
        script = f"{blocker}sys.path.insert(0, {str(tmp_path)!r})\n{code}"
        return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=60)

    client = run("import convserve; print(convserve.Client.__name__, convserve.__file__)")
    assert client.stdout.split() == ["Client", str(tmp_path / "convserve/__init__.py")]
    serve = run("from convserve.__main__ import main; sys.exit(main(['serve']))")
    assert serve.returncode != 0
    assert "convserve[server]" in serve.stderr
    train = run("from convtrain.__main__ import main; sys.argv = ['convtrain', 'run', 'mnist-deep']; main()")
    assert train.returncode != 0
    assert "convserve[train]" in train.stderr
