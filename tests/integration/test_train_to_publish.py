"""The whole road of training on real images, through the command line: data, training, proof, version."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from convserve import manifest
from convserve.__main__ import main
from convserve.signing import Verifier
from convtrain.cli import run
from convtrain.datasets import idx
from convtrain.predictions import from_onnx, from_saved_model
from support.keys import SigningKey
from support.server import serving

pytestmark = pytest.mark.training

DATA = Path(__file__).parents[1] / "data"


@pytest.fixture(autouse=True)
def _own_directories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONVTRAIN_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


def sample(name: str) -> dict[str, Any]:
    with np.load(DATA / f"{name}-sample.npz") as arrays:
        return dict(arrays)


def write_idx(directory: Path) -> dict[str, Any]:
    """The sample of MNIST in the form of the official files."""
    arrays = sample("mnist")
    directory.mkdir()
    for name, array in (
        ("train-images-idx3-ubyte", arrays["train_images"][..., 0]),
        ("train-labels-idx1-ubyte", arrays["train_labels"].astype(np.uint8)),
        ("t10k-images-idx3-ubyte", arrays["test_images"][..., 0]),
        ("t10k-labels-idx1-ubyte", arrays["test_labels"].astype(np.uint8)),
    ):
        (directory / name).write_bytes(idx.pack(array))
    return arrays


def convtrain(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    """Run a command that must succeed. Returns its JSON."""
    code = run([*arguments, "--json"])
    captured = capsys.readouterr()
    assert code == 0, captured.err
    return json.loads(captured.out)


def test_digits_from_idx_files_to_a_version(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One command; the version it publishes is complete, and its files say what its manifest says."""
    arrays = write_idx(tmp_path / "digits")
    options = ["--data-dir", "digits", "--skip-digest-check", "--run-dir", "run", "--model-repository", "models"]
    result = convtrain(capsys, "run", "mnist-deep", *options, "--epochs", "6", "--batch-size", "16")
    assert result["version"] == "models/mnist/1"
    assert result["accuracy"] > 0.8
    directory = tmp_path / "models/mnist/1"
    content, _ = manifest.read(directory)
    manifest.verify_files(directory, content)
    assert content.training.parameters == 1_199_882
    assert content.training.command.startswith("convtrain run mnist-deep --data-dir digits")
    assert (content.dataset.train_images, content.dataset.validation_images, content.dataset.test_images) == (
        360,
        40,
        240,
    )
    assert all(proof.images == 240 and proof.max_abs_diff_probabilities <= 1e-5 for proof in content.parity.values())
    for predictions in (
        from_onnx(directory / "model.onnx", arrays["test_images"]),
        from_saved_model(directory, arrays["test_images"]),
    ):
        right = int((predictions.probabilities.argmax(axis=1) == arrays["test_labels"]).sum())
        assert right == round(content.metrics["accuracy"] * 240)
    assert content.metrics["ece"] == result["ece"]
    report = json.loads((tmp_path / "run/report.json").read_text())
    assert report["evaluation"]["accuracy"] == result["accuracy"]
    assert report["calibration"]["temperature"] == content.temperature != 1.0
    assert report["parity"].keys() == {"saved_model", "onnx"}
    assert "<svg" in (tmp_path / "run/report.html").read_text()
    for path in directory.rglob("*"):
        assert not path.is_file() or str(tmp_path).encode() not in path.read_bytes()

    # The same run again becomes the next version; steps can be repeated one by one.
    assert convtrain(capsys, "evaluate", "run")["accuracy"] == result["accuracy"]
    convtrain(capsys, "export", "run")
    key = SigningKey(tmp_path)
    signed = convtrain(capsys, "publish", "run", "--model-repository", "models", "--sign", str(key.private_file))
    assert signed["version"] == "models/mnist/2"
    Verifier(key.public_file).check(tmp_path / "models/mnist/2", manifest.read_bytes(tmp_path / "models/mnist/2"))
    assert run(["publish", "run", "--sign", "nowhere.pem"]) == 1
    assert "nowhere.pem: cannot be read" in capsys.readouterr().err
    assert convtrain(capsys, "inspect", "models/mnist/2")["golden_max_abs_diff"] <= 1e-5

    # A file changed after the proof is not published, nor are weights that were not measured.
    onnx_file = tmp_path / "run/export/model.onnx"
    altered = bytearray(onnx_file.read_bytes())
    altered[len(altered) // 2] ^= 1
    onnx_file.write_bytes(altered)
    assert run(["publish", "run", "--model-repository", "models"]) == 1
    assert "run/export/model.onnx: is not the file that was proved" in capsys.readouterr().err
    shutil.copy("run/checkpoint.npz", "run/weights.npz")
    assert run(["publish", "run", "--model-repository", "models"]) == 1
    assert "calibration.json: speaks of other weights" in capsys.readouterr().err

    # Other data than the run began with are noticed.
    labels = tmp_path / "digits/train-labels-idx1-ubyte"
    labels.write_bytes(labels.read_bytes()[:-1] + b"\x05")
    assert run(["evaluate", "run"]) == 1
    assert "the train split is not the one this run began with" in capsys.readouterr().err


def test_a_folder_of_photographs_to_a_version(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Any labelled folder trains without code, step by step, and under a name of its own."""
    arrays = sample("cifar10")
    names = arrays["label_names"]
    for split in ("train", "test"):
        for number, (pixels, label) in enumerate(
            zip(arrays[f"{split}_images"], arrays[f"{split}_labels"], strict=True)
        ):
            if label in (0, 6, 8):  # airplane, frog, ship
                path = tmp_path / "photos" / split / str(names[label]) / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(path)
    options = ["--dataset", "folder", "--data-dir", "photos", "--model", "photos", "--image-size", "24"]
    trained = convtrain(
        capsys, "train", "cifar10-simple", *options, "--epochs", "4", "--batch-size", "8", "--run-dir", "r"
    )
    assert trained["epochs"] == 4
    assert run(["publish", "r"]) == 1
    assert "evaluation.json: there is no such file; first run: convtrain evaluate r" in capsys.readouterr().err
    assert convtrain(capsys, "evaluate", "r")["accuracy"] > 0.5
    convtrain(capsys, "export", "r")
    published = convtrain(capsys, "publish", "r")
    content, _ = manifest.read(tmp_path / published["version"])
    assert (content.model, content.labels) == ("photos", ["airplane", "frog", "ship"])
    assert content.input == manifest.InputSpec(height=24, width=24, channels=3)
    assert content.dataset.name == "photos"
    assert (tmp_path / "models/photos/labels.txt").read_text() == "airplane\nfrog\nship\n"


def test_what_was_trained_is_served_and_classifies(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Train, publish, serve in a process of its own, classify files from the command line: the published answers."""
    arrays = write_idx(tmp_path / "digits")
    options = ["--data-dir", "digits", "--skip-digest-check", "--run-dir", "run", "--model-repository", "models"]
    result = convtrain(capsys, "run", "mnist-simple", *options, "--epochs", "4", "--batch-size", "16")
    files = []
    for index, pixels in enumerate(arrays["test_images"]):
        files.append(f"{index}.png")
        Image.fromarray(pixels[..., 0]).save(files[-1])
    with serving(tmp_path / "models", tmp_path) as server:
        assert main(["classify", *files, "--model", "mnist", "--target", server.target, "--top-k", "1", "--json"]) == 0
    answers = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [answer["file"] for answer in answers] == files
    classes = [answer["predictions"][0]["index"] for answer in answers]
    published = from_onnx(tmp_path / "models/mnist/1/model.onnx", arrays["test_images"])
    assert classes == published.probabilities.argmax(axis=1).tolist()
    right = sum(int(found == label) for found, label in zip(classes, arrays["test_labels"].tolist(), strict=True))
    assert right == round(result["accuracy"] * len(files))
