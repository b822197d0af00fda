"""docs/tutorial.md works as it is written: its commands are run, and its answers are right."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from convserve import Client, manifest
from convserve.errors import ArtifactError

pytestmark = [pytest.mark.training, pytest.mark.timeout(900)]

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs/tutorial.md").read_text()


def blocks(language: str) -> list[str]:
    """The page's blocks of one language, in order."""
    return re.findall(rf"```{language}\n(.*?)```", TEXT, flags=re.S)


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """A checkout's directory to work in, with this environment's commands on the path and free ports."""
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith("CONVSERVE_")},
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "CONVTRAIN_CACHE_DIR": str(tmp_path / "cache"),
        "CONVSERVE_PORT": "0",
        "CONVSERVE_HTTP_PORT": "0",
    }


def run(script: str, environment: dict[str, str]) -> str:
    """Run a block as a reader would. Returns what it prints."""
    done = subprocess.run(["bash", "-e", "-c", script], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@contextmanager
def training_and_serving(script: str, environment: dict[str, str]) -> Iterator[str]:
    """Run the block that ends with a server. Yields its address."""
    with (
        Path("training.log").open("w") as log,
        subprocess.Popen(
            ["bash", "-c", script],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            start_new_session=True,
        ) as process,
    ):
        try:
            assert process.stdout is not None
            for line in process.stdout:
                if line.startswith("{"):
                    yield f"127.0.0.1:{json.loads(line)['grpc_port']}"
                    break
            else:
                pytest.fail(Path("training.log").read_text())
        finally:
            os.killpg(process.pid, signal.SIGTERM)


def test_the_tutorial(environment: dict[str, str]) -> None:
    """From drawing the folder to classifying images, inspecting, and a network of one's own."""
    install, draw, train_and_serve, ask, inspect, another = blocks("sh")
    assert install.startswith("pip install -e '.[")
    run(draw, environment)
    with training_and_serving(train_and_serve, environment) as target:
        content, _ = manifest.read(Path("models/shapes/1"))
        assert content.labels == ["circle", "square", "star", "triangle"]
        assert (content.dataset.train_images, content.dataset.test_images) == (680, 200)
        assert content.metrics["accuracy"] > 0.8
        answers = run(ask, environment | {"CONVSERVE_TARGET": target})
        assert "star" in answers
        assert "circle" in answers
        unseen = sorted(Path("unseen").glob("*/*.png"))
        with Client(target) as client:
            right = [client.classify(str(path), model="shapes").label == path.parent.name for path in unseen]
        assert len(right) == 12
        assert sum(right) >= 9
        assert "golden" in run(inspect, environment)
        assert Path("000-features.svg").read_text().startswith("<svg")
    (toml,) = blocks("toml")
    Path("small.toml").write_text(toml)
    Path("wrong.toml").write_text(toml.replace('    {layer = "flatten"},\n', ""))
    wrong = subprocess.run(["convtrain", "describe", "wrong.toml"], env=environment, capture_output=True, text=True)
    refusal = wrong.stderr.removeprefix("convtrain: error: ").replace("wrong.toml", "small.toml")
    assert " ".join(refusal.split()) in " ".join(TEXT.split())
    described = run(another, environment)
    assert "separable_conv 3×3" in described
    assert "version: models/shapes/2" in described


def test_half_a_version_is_never_seen(environment: dict[str, str], tmp_path: Path) -> None:
    """A publisher killed when all but the manifest is written leaves no version; publishing again works."""
    run("python examples/shapes.py few --count 8", environment)
    run("convtrain run --data-dir few --image-size 16 --epochs 1 --run-dir r --model-repository first", environment)
    kill = (
        "import os, signal\n"
        "from convserve import manifest\n"
        "from convtrain.cli import run\n"
        "manifest.write = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        "run(['publish', 'r', '--model-repository', 'second'])\n"
    )
    killed = subprocess.run([sys.executable, "-c", kill], env=environment, check=False, timeout=120)
    assert killed.returncode == -signal.SIGKILL
    left = [path.name for path in Path("second/few").iterdir() if path.is_dir()]
    assert len(left) == 1
    assert left[0].startswith(".staging-")
    with pytest.raises(ArtifactError):
        manifest.read(Path("second/few") / left[0])
    assert run("convtrain publish r --model-repository second", environment).strip() == "version: second/few/1"
