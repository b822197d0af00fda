"""Environments of the peers: one each, outside the tree, from pins with hashes.

python -m benchmarks.peers.environments [NAME ...]
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from benchmarks import common

CACHE = Path(os.environ.get("CONVSERVE_BENCH_CACHE") or Path.home() / ".cache/convserve-bench")
PINS = Path(__file__).parent / "requirements"
CLIENT = "client"
"""Holds tritonclient, which checks answers."""
NAMES = (CLIENT, "triton", "kserve", "mlserver", "bentoml", "litserve")


def python_of(name: str) -> Path | None:
    """Python of an environment that is installed and up to date; None otherwise."""
    stamp = _directory(name) / "installed.txt"
    if not stamp.exists() or stamp.read_bytes() != _pins(name).read_bytes():
        return None
    return _directory(name) / "bin/python"


def install(name: str) -> None:
    """Make an environment anew."""
    directory = _directory(name)
    shutil.rmtree(directory, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "venv", directory], check=True)
    python = directory / "bin/python"
    pip: list[str | Path] = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    if uv := shutil.which("uv"):  # many times as fast
        pip = [uv, "pip", "install", "--quiet", "--python", python]
    subprocess.run([*pip, "--require-hashes", "-r", _pins(name)], check=True)
    shutil.copyfile(_pins(name), directory / "installed.txt")


def main(names: list[str]) -> int:
    """Install those that are missing. Returns the exit status."""
    missing = []
    for name in names or NAMES:
        if name not in NAMES:
            sys.exit(f"{name} is no peer; they are: {', '.join(NAMES)}")
        if python_of(name) is None:
            print(f"installing {name} into {_directory(name)}", flush=True)
            try:
                install(name)
            except subprocess.CalledProcessError:
                missing.append(name)
    if missing:
        print(f"could not be installed: {', '.join(missing)}")
    return 1 if missing else 0


def _directory(name: str) -> Path:
    return CACHE / "peers" / name


def _pins(name: str) -> Path:
    if name == CLIENT:
        return common.ROOT / "tests/contract/requirements-triton.txt"
    return PINS / f"{name}.txt"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
