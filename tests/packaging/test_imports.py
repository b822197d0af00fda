"""What importing loads, seen in a process of its own: import-linter reads the source, this sees what happens."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = {"onnxruntime", "tensorflow", "keras", "prometheus_client", "structlog", "msgspec", "PIL", "matplotlib"}


def loaded_by(code: str) -> set[str]:
    """Top-level modules in memory after running `code` in a fresh interpreter."""
    script = f"{code}\nimport sys; print('\\n'.join(sorted({{name.partition('.')[0] for name in sys.modules}})))"
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    return set(ended.stdout.splitlines())


def test_the_client_is_light() -> None:
    """Other services install it: grpcio, protobuf, numpy, nothing else."""
    loaded = loaded_by("import convserve; convserve.Client('127.0.0.1:1').close()")
    assert not loaded & HEAVY
    assert {"grpc", "google", "numpy"} <= loaded


def test_the_package_itself_is_lighter_still() -> None:
    """`import convserve` alone loads not even gRPC: the server's processes import the package before they fork out."""
    assert not loaded_by("import convserve") & (HEAVY | {"grpc", "numpy"})


@pytest.mark.parametrize("command", ["classify", "models"])
def test_the_client_commands_are_light(command: str) -> None:
    """They work in an installation without the server."""
    code = f"from convserve.__main__ import main\ntry: main([{command!r}, '--help'])\nexcept SystemExit: pass"
    assert not loaded_by(code) & {"onnxruntime", "tensorflow", "PIL", "prometheus_client"}


def test_serving_onnx_never_imports_tensorflow(repository: Path) -> None:
    """A server that has proved and served a model has not loaded it, nor the training package or the client."""
    code = f"""
from pathlib import Path
from convserve.config import Settings
from convserve.host import CpuPlan
from convserve.server.app import Server
settings = Settings(model_repository=Path({str(repository)!r}), port=0, http_port=0)
server = Server(settings, CpuPlan(1, 1))
assert server.start() == ["stripes"]
server.stop()
import sys
assert "convserve.client" not in sys.modules
"""
    loaded = loaded_by(code)
    assert not loaded & {"tensorflow", "keras", "tf2onnx", "convtrain", "matplotlib"}
    assert "onnxruntime" in loaded
