"""Environments for foreign clients, and the server they talk to."""

from __future__ import annotations

import fcntl
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from convserve.v1 import classification_pb2 as pb
from convserve.v1 import classification_pb2_grpc as rpc
from support.server import ServerProcess, serving

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
MODELS = ("mnist", "cifar10")
VERSIONS = {
    model: max(int(entry.name) for entry in (ROOT / "models" / model).iterdir() if entry.name.isdigit())
    for model in MODELS
}
COUNT = 200
PIP_FLAGS = {"tensorflow-serving": ["--no-deps"]}

Images = npt.NDArray[np.uint8]
Probabilities = npt.NDArray[np.float64]


@pytest.fixture(scope="session")
def versions() -> dict[str, int]:
    """Number of the version that is served, by model."""
    return VERSIONS


@pytest.fixture(scope="session")
def images() -> dict[str, Images]:
    """Real images of the test splits, by model."""
    found: dict[str, Images] = {}
    for model in MODELS:
        with np.load(ROOT / f"tests/data/{model}-sample.npz") as arrays:
            found[model] = arrays["test_images"][:COUNT]
    return found


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """The bundled models, with admin methods and an alias."""
    directory = tmp_path_factory.mktemp("contract")
    config = directory / "config.toml"
    stable = "".join(f"[models.{model}]\naliases = {{ stable = {number} }}\n" for model, number in VERSIONS.items())
    config.write_text(f"admin_methods = true\n{stable}")
    with serving(ROOT / "models", directory, "--config", str(config), "--exit-on-error", "false") as running:
        yield running


@pytest.fixture(scope="session")
def narrow_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """The bundled models without admin methods, behind a queue that holds a few images."""
    directory = tmp_path_factory.mktemp("narrow")
    config = directory / "config.toml"
    config.write_text("[model]\nmax_queue_bytes = 4000\n")
    with serving(ROOT / "models", directory, "--config", str(config)) as running:
        yield running


@pytest.fixture(scope="session")
def expected(server: ServerProcess, images: dict[str, Images]) -> dict[str, Probabilities]:
    """Probabilities by our own API for packed pixels, [images, classes] in the order of the classes, by model."""
    with grpc.insecure_channel(server.target) as channel:
        stub = rpc.ClassificationServiceStub(channel)
        return {
            model: probabilities(
                stub.Classify(
                    pb.ClassifyRequest(
                        model=model, packed=pb.PackedImages(data=pixels.tobytes(), shape=pixels.shape), top_k=10
                    )
                )
            )
            for model, pixels in images.items()
        }


@pytest.fixture(scope="session")
def files(images: dict[str, Images]) -> dict[str, list[bytes]]:
    """The images as PNG files, by model."""
    return {model: [_png(image) for image in pixels] for model, pixels in images.items()}


@pytest.fixture(scope="session")
def environment_of() -> Callable[[str], Path]:
    """Python of an environment that has a client."""
    return _environment


@pytest.fixture(scope="session")
def run_client(
    server: ServerProcess,
    narrow_server: ServerProcess,
    images: dict[str, Images],
    files: dict[str, list[bytes]],
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[..., dict[str, Any]]:
    """Run one of `clients/` in an environment of its own; returns what it found."""

    def run(name: str, environment: dict[str, str] | None = None) -> dict[str, Any]:
        python = _environment(name) if (HERE / f"requirements-{name}.txt").exists() else Path(sys.executable)
        directory = tmp_path_factory.mktemp(name)
        for model in MODELS:
            (directory / model).mkdir()
            np.save(directory / model / "images.npy", images[model])
            for index, content in enumerate(files[model]):
                (directory / model / f"{index:03}.png").write_bytes(content)
        script = HERE / "clients" / f"{name.replace('-', '_')}.py"
        ended = subprocess.run(
            [python, script, server.target, directory],
            capture_output=True,
            text=True,
            check=False,
            timeout=100,
            env={"PATH": "", "NARROW": narrow_server.target, "VERSIONS": json.dumps(VERSIONS), **(environment or {})},
        )
        assert ended.returncode == 0, ended.stderr
        found: dict[str, Any] = json.loads(ended.stdout)
        with np.load(directory / "arrays.npz") as arrays:
            found["arrays"] = dict(arrays)
        return found

    return run


def probabilities(reply: pb.ClassifyResponse) -> Probabilities:
    """What a reply with all ten classes says, [images, classes] in the order of the classes."""
    values = np.zeros((len(reply.results), 10))
    for row, result in zip(values, reply.results, strict=True):
        for prediction in result.predictions:
            row[prediction.index] = prediction.probability
    return values


def _png(image: Images) -> bytes:
    content = BytesIO()
    Image.fromarray(image.squeeze()).save(content, "PNG")  # grey images have no channels in Pillow
    return content.getvalue()


def _environment(name: str) -> Path:
    """Python of an environment that has a client; made once, and again when its requirements change."""
    requirements = HERE / f"requirements-{name}.txt"
    directory = ROOT / f".venv-contract-{name}"
    python, stamp = directory / "bin/python", directory / "installed.txt"
    with (ROOT / f".venv-contract-{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # several test processes may want it at once
        _install(name, requirements, directory, python, stamp)
    return python


def _install(name: str, requirements: Path, directory: Path, python: Path, stamp: Path) -> None:
    if not stamp.exists() or stamp.read_bytes() != requirements.read_bytes():
        subprocess.run([sys.executable, "-m", "venv", "--clear", directory], check=True, timeout=100)
        pip: list[str | Path] = [
            python,
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
            "--require-hashes",
            *PIP_FLAGS.get(name, ()),
        ]
        ended = subprocess.run([*pip, "-r", requirements], capture_output=True, text=True, check=False, timeout=250)
        if ended.returncode:
            last = (ended.stderr.strip().splitlines() or ["no message"])[-1]
            pytest.skip(f"NOT TESTED: {name}'s client cannot be installed ({last})")
        stamp.write_bytes(requirements.read_bytes())
