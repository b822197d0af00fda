"""The wheel that users install."""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

import convserve

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
    assert metadata["Version"] == convserve.__version__


def test_the_base_install_can_run_its_generated_code(wheel: Path, tmp_path: Path) -> None:
    """Generated code refuses a protobuf or grpcio older than its generator: the least versions allowed are no older."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    sources = [path.read_text() for path in tmp_path.rglob("*_pb2*.py")]
    (metadata,) = (path.read_text() for path in tmp_path.rglob("METADATA"))
    least = dict(re.findall(r"^Requires-Dist: (\w+)>=([\d.]+)$", metadata, re.MULTILINE))
    protobuf = {found for text in sources for found in re.findall(r"Domain\.PUBLIC,\s+(\d+),\s+(\d+),\s+(\d+),", text)}
    grpcio = {
        found for text in sources for found in re.findall(r"GRPC_GENERATED_VERSION = '(\d+)\.(\d+)\.(\d+)'", text)
    }
    for name, generators in (("protobuf", protobuf), ("grpcio", grpcio)):
        assert tuple(map(int, least[name].split("."))) >= max(tuple(map(int, one)) for one in generators)


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
    for command in ("['serve', '--port', '9000']", "['doctor', '--workers', '2']"):
        serve = run(f"from convserve.__main__ import main; sys.exit(main({command}))")
        assert serve.returncode == 1
        assert "convserve[server]" in serve.stderr
    listed = run("from convserve.__main__ import main; main(['serve', '--help'])")
    assert "convserve[server]" in listed.stdout
    wrong = run("from convserve.__main__ import main; main(['models', '--port', '9000'])")
    assert wrong.returncode == 2
    assert "unrecognized arguments: --port 9000" in wrong.stderr
    train = run("from convtrain.__main__ import main; sys.argv = ['convtrain', 'run', 'mnist-deep']; main()")
    assert train.returncode != 0
    assert "convserve[train]" in train.stderr


def test_the_load_tester_needs_nothing_but_its_extra() -> None:
    """`convserve plan` uses the server's queue; what that imports is in the extra `loadtest`, or it could not run."""
    pins = (ROOT / "requirements/loadtest.txt").read_text()
    pinned = {name.replace("-", "_") for name in re.findall(r"^([\w-]+)==", pins, re.MULTILINE)}
    missing = {"msgspec", "onnxruntime", "structlog", "cryptography", "prometheus_client", "platformdirs"} - pinned
    code = f"""
import sys
for name in {missing!r}: sys.modules[name] = None
from convserve.__main__ import main
from convserve.loadtest.campaign import Campaign
sys.exit(main(["plan", "--batch-times", "1:0.5ms,64:4ms", "--rate", "1000", "--slo", "p99=20ms"]))
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert ended.returncode == 0, ended.stderr
    assert "replica(s)" in ended.stdout
