"""Training on JAX where there is no TensorFlow, and everything after it on TensorFlow; each in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from convtrain import backend
from convtrain.files import read_arrays
from support.waiting import until

pytestmark = pytest.mark.training

SMALL = """\
base = "mnist"
name = "small"

[architecture]
initialization = "identity"
layers = [
    { layer = "whiten" },
    { layer = "conv", filters = 8, pool = 2, batch_norm = true },
    { layer = "residual", layers = [{ layer = "conv", filters = 8, batch_norm = true }], activation = "silu" },
    { layer = "dropout", rate = 0.1 },
    { layer = "global_pool" },
]

[training]
epochs = 3
precision = "mixed_bfloat16"
batch_size = 64
validation_fraction = 0.2
weight_averaging = 0.9
progressive_resizing = [{ until = 0.3, scale = 0.5 }]
augmentation = { shift_pixels = 1, cutmix = 0.5 }
loss = { labels = "one-hot", label_smoothing = 0.1 }
"""


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A preset with all that the presets to serve are made of."""
    path = tmp_path / "small.toml"
    path.write_text(SMALL)
    return path


def convtrain(*arguments: str | Path, expect: int = 0, **environment: str) -> Any:
    """Run a command in its own process. Returns the document that it printed, or else what it complained of."""
    done = subprocess.run(
        [sys.executable, "-m", "convtrain", *map(str, arguments), "--json"],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == expect, done.stderr
    return json.loads(done.stdout) if expect == 0 else done.stderr


def killed_after_an_epoch(*arguments: str | Path, **environment: str) -> None:
    """Start a command, and kill it in the second epoch, which begins with seconds of compiling for another size."""
    run = Path(arguments[arguments.index("--run-dir") + 1])
    command = [sys.executable, "-m", "convtrain", *map(str, arguments)]
    with subprocess.Popen(command, env=os.environ | environment) as process:
        until(lambda: (run / "checkpoint.npz").exists(), seconds=300)
        process.kill()


def without(directory: Path, *libraries: str) -> str:
    """A PYTHONPATH in which libraries cannot be opened, as if they were not installed."""
    directory.mkdir()
    for library in libraries:
        (directory / f"{library}.py").write_text(f"raise ModuleNotFoundError('hidden', name={library!r})")
    return os.pathsep.join([str(directory), *filter(None, [os.environ.get("PYTHONPATH")])])


@pytest.mark.timeout(600)  # four processes, each opens JAX or TensorFlow and compiles
def test_it_trains_without_tensorflow_and_the_rest_is_done_elsewhere(
    small: Path, mnist_directory: Path, tmp_path: Path
) -> None:
    """Killed and gone on with, it ends as it would have; the version that comes of it is proved like any other."""
    data = ("--data-dir", mnist_directory, "--skip-digest-check")
    path = without(tmp_path / "hidden", "tensorflow", "tf2onnx", "onnx", "onnxruntime", "matplotlib")
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    trained = convtrain("train", small, *data, "--run-dir", whole, "--backend", "jax", PYTHONPATH=path)
    assert trained["epochs"] == 3

    killed_after_an_epoch("train", small, *data, "--run-dir", broken, "--backend", "jax", PYTHONPATH=path)
    convtrain("train", "--resume", broken, PYTHONPATH=path)
    expected = read_arrays(whole / "weights.npz")
    for name, array in read_arrays(broken / "weights.npz").items():
        np.testing.assert_array_equal(array, expected[name])

    published = convtrain("run", "--resume", whole, "--model-repository", tmp_path / "models")
    assert published["parity"]["onnx"]["top1_disagreements"] == 0
    manifest = json.loads((Path(published["version"]) / "manifest.json").read_text())
    assert "--backend jax" in manifest["training"]["command"]
    # Each part is said to be made by what made it.
    assert {"jax", "keras", "numpy"} < manifest["training"]["frameworks"].keys()
    assert "tensorflow" not in manifest["training"]["frameworks"]
    assert "tensorflow" in manifest["frameworks"]
    assert len(list((whole / "tensorboard").iterdir())) == 1


def test_it_is_opened_quietly() -> None:
    """With TensorFlow, which Keras opens as well where there is one."""
    code = "from convtrain import backend; backend.choose('jax'); backend.seed_everything(1)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=300)
    assert (done.stdout, done.stderr) == ("", "")


def test_a_full_memory_is_told_from_other_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    """JAX has one class for all that goes wrong in a device."""
    monkeypatch.setattr(backend, "_backend", "jax")
    error = backend.jax().errors.JaxRuntimeError
    with pytest.raises(MemoryError, match=r"^RESOURCE_EXHAUSTED: Out of memory$"), backend.memory_errors():
        raise error("RESOURCE_EXHAUSTED: Out of memory\nmore")
    with pytest.raises(error, match="INTERNAL"), backend.memory_errors():
        raise error("INTERNAL: no")


def test_jax_that_is_missing_is_named(small: Path, mnist_directory: Path, tmp_path: Path) -> None:
    """With what to install."""
    said = convtrain(
        *("train", small, "--data-dir", mnist_directory, "--skip-digest-check", "--run-dir", tmp_path / "run"),
        *("--backend", "jax"),
        expect=1,
        PYTHONPATH=without(tmp_path / "hidden", "jax"),
    )
    assert "training needs jax, which is not installed: pip install 'jax[cuda13]' 'keras" in said


def test_float32_is_float32() -> None:
    """On a GPU JAX would multiply with fewer bits than TensorFlow does here."""
    square = np.ones((2, 2), np.float32)
    program = backend.jax().jit(lambda x: x @ x).lower(square).as_text()
    assert "precision = [HIGHEST, HIGHEST]" in program
