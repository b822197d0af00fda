"""The command as a process: what it loads, and what it does when nobody reads its output."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

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


@pytest.mark.parametrize("encoding", ["ascii", "utf-8:strict"])
def test_names_that_the_output_cannot_show_are_escaped(fake: FakeServer, tmp_path: Path, encoding: str) -> None:
    """Files of an archive from elsewhere have such names, and terminals without UTF-8 are still about."""
    for name in ("caf\xe9.png", os.fsdecode(b"\xff.png")):
        (tmp_path / name).write_bytes(b"\x01")
    command = [sys.executable, "-m", "convserve", "classify", "--model", "m", "--target", fake.target]
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    done = subprocess.run([*command, *tmp_path.iterdir()], capture_output=True, check=False, env=environment)
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"\\udcff.png " in done.stdout
    helped = subprocess.run([sys.executable, "-m", "convserve", "plan", "--help"], check=False, env=environment)
    assert helped.returncode == 0


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
