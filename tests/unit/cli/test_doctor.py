"""`convserve doctor` tells what is here."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from convserve import manifest as m
from convserve.__main__ import main


def test_a_healthy_repository(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Versions, cores, the decision, providers, models; exit status 0."""
    assert main(["doctor", "--json", "--model-repository", str(repository), "--workers", "3"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["plan"]["workers"] == 3
    assert report["host"]["host_cores"] >= 1
    assert "CPUExecutionProvider" in report["providers"]
    assert report["models"]["stripes"]["1"]["files"] == "as published"
    assert report["problems"] == []
    assert main(["doctor", "--model-repository", str(repository)]) == 0
    text = capsys.readouterr().out
    assert "stripes version 1: files as published, accuracy 1.0000" in text
    assert "no problems found" in text


def test_problems_are_named(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A damaged file, with its name; exit status 1."""
    (repository / "stripes/1" / m.ONNX_FILE).write_bytes(b"")
    assert main(["doctor", "--model-repository", str(repository)]) == 1
    assert "PROBLEM    " in (text := capsys.readouterr().out)
    assert "model.onnx: SHA-256" in text


def test_a_missing_repository(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Is a problem, not a crash."""
    assert main(["doctor", "--model-repository", str(tmp_path / "nowhere")]) == 1
    assert "cannot be read" in capsys.readouterr().out
