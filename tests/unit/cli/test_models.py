"""`convserve models` against a server of this process."""

from __future__ import annotations

import json

import pytest

from convserve.__main__ import main
from convserve.v1 import model_pb2
from support.fake_server import FakeServer


@pytest.fixture
def models(fake: FakeServer) -> FakeServer:
    """A server with one good and one failed version."""
    model = model_pb2.Model(name="digits", default_version=2, aliases={"stable": 2})
    model.versions.add(
        version=2,
        state=model_pb2.VERSION_STATE_AVAILABLE,
        input_shape=[28, 28, 1],
        labels=["zero", "one"],
        metrics={"accuracy": 0.991},
        dataset="mnist",
        provider="CPUExecutionProvider",
    )
    model.versions.add(version=1, state=model_pb2.VERSION_STATE_FAILED, reason="golden.npz: differs")
    fake.models = [model]
    return fake


def test_people_get_a_table(models: FakeServer, capsys: pytest.CaptureFixture[str]) -> None:
    """All versions, the default marked, and why one failed."""
    assert main(["models", "--target", models.target]) == 0
    assert capsys.readouterr().out == (
        "MODEL   VERSION              STATE      INPUT    CLASSES  ACCURACY  DATASET  PROVIDER\n"
        "digits  2 (default, stable)  available  28x28x1  2        99.10%    mnist    CPUExecutionProvider\n"
        "digits  1                    failed     -        -        -         -        -\n"
        "digits version 1 failed: golden.npz: differs\n"
    )


def test_json_holds_everything(models: FakeServer, capsys: pytest.CaptureFixture[str]) -> None:
    """One object for each model."""
    assert main(["models", "--json", "--target", models.target]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["name"], found["default_version"], found["aliases"]) == ("digits", 2, {"stable": 2})
    assert [version["state"] for version in found["versions"]] == ["available", "failed"]
    assert found["versions"][0]["labels"] == ["zero", "one"]


def test_a_server_without_models_has_an_empty_table(fake: FakeServer, capsys: pytest.CaptureFixture[str]) -> None:
    """The header alone, and no error."""
    assert main(["models", "--target", fake.target]) == 0
    assert capsys.readouterr().out.startswith("MODEL")


def test_the_target_comes_from_the_environment(
    models: FakeServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """CONVSERVE_TARGET saves typing."""
    monkeypatch.setenv("CONVSERVE_TARGET", models.target)
    assert main(["models"]) == 0
    assert "digits" in capsys.readouterr().out


def test_a_server_that_is_not_there_is_a_failure(capsys: pytest.CaptureFixture[str]) -> None:
    """The message names the address."""
    assert main(["models", "--target", "127.0.0.1:1"]) == 1
    assert "127.0.0.1:1" in capsys.readouterr().err
