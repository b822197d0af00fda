"""The command as a process: what it loads, and what it does when nobody reads its output."""

from __future__ import annotations

import subprocess
import sys

import pytest

from support.fake_server import FakeServer


def test_the_version_is_told() -> None:
    """`convserve --version` needs no server."""
    done = subprocess.run([sys.executable, "-m", "convserve", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("convserve ")


@pytest.mark.parametrize("command", ["classify", "models", "serve", "loadtest", "plan"])
def test_help_loads_nothing_heavy(command: str) -> None:
    """Help appears at once, also where the server is not installed."""
    script = (
        "import sys\nfrom convserve.__main__ import main\n"
        f"try: main([{command!r}, '--help'])\n"
        "except SystemExit: print('LOADED', *sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    shown, _, loaded = done.stdout.partition("LOADED")
    assert "usage: convserve" in shown
    assert set(loaded.split()).isdisjoint({"onnxruntime", "PIL", "tensorflow", "grpc", "numpy", "prometheus_client"})


def test_a_closed_pipe_is_no_traceback(fake: FakeServer) -> None:
    """`convserve classify … | head -1` ends quietly."""
    command = [sys.executable, "-m", "convserve", "classify", "--json", "--model", "m", "--target", fake.target]
    process = subprocess.Popen([*command, *[__file__] * 300], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stderr is not None
    with process, process.stdout, process.stderr:
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(30) == 1
