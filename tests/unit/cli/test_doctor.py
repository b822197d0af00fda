"""`convserve doctor` tells what is here."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

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


def test_a_copied_version_is_refused(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As a server would refuse it; the version below is served in its place."""
    shutil.copytree(repository / "stripes/1", repository / "stripes/2")
    assert main(["doctor", "--model-repository", str(repository)]) == 1
    text = capsys.readouterr().out
    assert "stripes version 2: files refused; not wanted" in text
    assert "is of stripes version 1, and lies where stripes version 2 should be" in text
    assert "accuracy 1.0000 on its test split; served" in text


def test_signatures_are_checked_where_they_are_required(
    repository: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A version without one is refused."""
    key = Ed25519PrivateKey.generate().public_key()
    (tmp_path / "public.pem").write_bytes(key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    arguments = ["doctor", "--model-repository", str(repository), "--require-signature", str(tmp_path / "public.pem")]
    assert main(arguments) == 1
    assert "takes signed versions only" in capsys.readouterr().out


def test_what_the_settings_want(repository: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A policy that wants nothing is a problem; a version with an alias is served besides."""
    assert main(["doctor", "--model-repository", str(repository), "--model-version-policy", "specific:7"]) == 1
    assert "version_policy 'specific:7' wants none of them" in capsys.readouterr().out
    settings = tmp_path / "convserve.toml"
    settings.write_text("[models.stripes]\nversion_policy = 'specific:7'\naliases = { stable = 1 }\n")
    assert main(["doctor", "--model-repository", str(repository), "--config", str(settings)]) == 0
    assert "; served" in capsys.readouterr().out
