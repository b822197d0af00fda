"""`buf curl`, which knows nothing but what reflection tells it, calls each service."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sysconfig
from pathlib import Path
from typing import Any

import pytest

from support.server import ServerProcess

BUF = Path(sysconfig.get_path("scripts")) / "buf"


SERVICES = {
    "convserve.v1.ModelService",
    "inference.GRPCInferenceService",
    "tensorflow.serving.ModelService",
    "grpc.health.v1.Health",
}


def curl(server: ServerProcess, method: str, request: dict[str, Any]) -> Any:
    flags = ("--protocol", "grpc", "--http2-prior-knowledge", "--data", json.dumps(request))
    ended = subprocess.run(
        [BUF, "curl", *flags, f"http://{server.target}/{method}"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout)


@pytest.mark.parametrize(
    ("method", "request_", "key"),
    [
        ("convserve.v1.ModelService/ListModels", {}, "models"),
        ("inference.GRPCInferenceService/ServerReady", {}, "ready"),
        ("inference.GRPCInferenceService/ModelMetadata", {"name": "mnist"}, "platform"),
        ("tensorflow.serving.ModelService/GetModelStatus", {"modelSpec": {"name": "mnist"}}, "modelVersionStatus"),
        (
            "tensorflow.serving.PredictionService/GetModelMetadata",
            {"modelSpec": {"name": "mnist"}, "metadataField": ["signature_def"]},
            "metadata",
        ),
        ("grpc.health.v1.Health/Check", {}, "status"),
    ],
)
def test_each_service(server: ServerProcess, method: str, request_: dict[str, Any], key: str) -> None:
    """With the public names of services, messages, fields and enums, `Any` included."""
    reply = curl(server, method, request_)
    assert key in reply


def test_the_readme_s_commands(server: ServerProcess) -> None:
    """As they stand there, but for the address: each ends well and prints something."""
    text = (Path(__file__).parents[2] / "README.md").read_text()
    (block,) = (one for one in re.findall(r"```sh\n(.*?)```", text, re.DOTALL) if "buf curl" in one)
    alias, *commands = block.splitlines()
    assert alias == "alias grpc='buf curl --protocol grpc --http2-prior-knowledge'"
    assert {command.split("/")[3].split()[0] for command in commands[:-1]} >= SERVICES
    for command in commands:
        _, *arguments = shlex.split(command.replace("127.0.0.1:8001", server.target))
        ended = subprocess.run(
            [BUF, "curl", "--protocol", "grpc", "--http2-prior-knowledge", *arguments],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert (ended.returncode, ended.stderr) == (0, "")
        assert ended.stdout.strip()
        if "--list-methods" in arguments:
            assert {line.split("/")[0] for line in ended.stdout.split()} >= SERVICES


def test_predict(server: ServerProcess) -> None:
    """A whole classification, written by hand."""
    shape = {"dim": [{"size": size} for size in (1, 28, 28, 1)]}
    tensor = {"dtype": "DT_UINT8", "tensorShape": shape, "intVal": [0]}
    reply = curl(
        server,
        "tensorflow.serving.PredictionService/Predict",
        {"modelSpec": {"name": "mnist"}, "inputs": {"image": tensor}, "outputFilter": ["probabilities"]},
    )
    assert len(reply["outputs"]["probabilities"]["floatVal"]) == 10
    assert sum(reply["outputs"]["probabilities"]["floatVal"]) == pytest.approx(1)
