"""The command line: what goes where, and errors in one line."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest

from convserve import manifest
from convtrain import files, progress
from convtrain.cli import run, steps
from convtrain.cli.steps import command_text
from convtrain.datasets import folder
from support import versions


def test_presets_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    """A table for people, all of it for scripts."""
    assert run(["presets"]) == 0
    assert "225,034" in capsys.readouterr().out
    assert run(["presets", "--json"]) == 0
    listed = {preset["name"]: preset for preset in json.loads(capsys.readouterr().out)}
    assert listed["mnist-deep"]["training"]["batch_size"] == 64


def test_a_preset_is_described(capsys: pytest.CaptureFixture[str]) -> None:
    """Layer by layer, with sums."""
    assert run(["describe", "cifar10-simple"]) == 0
    assert "356,810" in capsys.readouterr().out
    assert run(["describe", "cifar10-simple", "--json"]) == 0
    described = json.loads(capsys.readouterr().out)
    assert described["parameters"] == 356_810
    assert described["layers"][0]["shape"] == [32, 32, 32]


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["train", "nonsense"], "no preset 'nonsense'"),
        (["train"], r"which preset\?"),
        (["train", "--data-dir", "."], r"is not a folder|holds no images|only the label|is empty|not an image file"),
        (["train", "mnist-deep", "--data-dir", "/nowhere"], "/nowhere: there is no such file or directory"),
        (["train", "mnist-deep", "--resume", "x", "--epochs", "3"], "leave out preset, epochs"),
        (["train", "--resume", "x", "--skip-digest-check"], "leave out skip_digest_check"),
        (["train", "--resume", "nowhere"], "nowhere: is not a run directory"),
        (["train", "mnist-deep", "--image-size", "64"], "--image-size and --channels are for --dataset folder"),
        (["train", "mnist-deep", "--dataset", "folder", "--image-size", "axb"], "--image-size is 'axb'"),
        (["train", "mnist-deep", "--dataset", "folder", "--image-size", "0x5"], "--image-size is '0x5'"),
        (["train", "mnist-deep", "--learning-rate", "-1"], "preset mnist-deep: .*learning_rate"),
        (["publish", "nowhere"], "nowhere: is not a run directory"),
        (["inspect", "nowhere", "--output", "a.svg"], "--output a.svg: is for a drawing; name the image"),
        (["inspect", "nowhere"], r"nowhere/manifest\.json: cannot be read"),
    ],
)
def test_errors_are_one_line_and_exit_code_1(
    arguments: list[str], why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """What a person can fix comes without a traceback."""
    assert run(arguments) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("convtrain: error: ")
    assert captured.err.count("\n") == 1
    assert re.search(why, captured.err)


@pytest.mark.parametrize("count", ["many", "0", "-3", "1.5"])
def test_a_count_is_a_whole_number(count: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The message says so, and not how the program calls it."""
    with pytest.raises(SystemExit):
        run(["train", "mnist", "--epochs", count])
    assert f"argument --epochs: {count!r} is not a whole number from 1 up" in capsys.readouterr().err


def test_a_place_that_does_not_fit_is_refused_before_there_is_a_run(
    tmp_path: Path, mnist_directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command can be given again with another --model and the same --run-dir."""
    labels = tmp_path / "models/mnist/labels.txt"
    labels.parent.mkdir(parents=True)
    labels.write_text("cat\ndog\n")
    options = ["--data-dir", str(mnist_directory), "--skip-digest-check", "--run-dir", str(tmp_path / "run")]
    assert run(["run", "mnist-deep", *options, "--model-repository", str(tmp_path / "models")]) == 1
    assert "other labels than this run" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_runs_begun_in_one_second_have_their_own_directories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As when a loop starts one for each of several seeds."""
    monkeypatch.chdir(tmp_path)
    directories = {steps._new_directory("mnist") for _ in range(20)}
    assert len(directories) == len(list(Path("runs").iterdir())) == 20


def test_images_that_do_not_fit_into_memory_are_said_to(
    image_folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one line, as any other error."""
    monkeypatch.setattr(folder, "_decode", lambda *_: np.empty(2**60, np.uint8))
    assert run(["train", "--data-dir", str(image_folder)]) == 1
    assert re.match(r"convtrain: error: not enough memory \(Unable to allocate .*\n$", capsys.readouterr().err)


def test_a_directory_is_shown_as_it_is_called(capsys: pytest.CaptureFixture[str]) -> None:
    """Brackets in a name are no markup of the terminal's."""
    progress.console.print("run runs/mnist[lr=0.1]/[/x]")
    assert capsys.readouterr().err == "run runs/mnist[lr=0.1]/[/x]\n"


@pytest.mark.timeout(20)
def test_a_link_to_nowhere_in_the_place_of_all_runs_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when a disk is not mounted: it exists, and no number makes a directory in it."""
    monkeypatch.chdir(tmp_path)
    Path("runs").symlink_to("/nowhere/runs")
    with pytest.raises(FileExistsError, match="'runs'"):
        steps._new_directory("mnist")


def test_data_in_a_place_that_is_no_utf8_are_refused(image_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The record of a run could not say where they are; files in the folder may have any names."""
    place = image_folder.rename(image_folder.parent / os.fsdecode(b"caf\xe9"))
    assert run(["train", "--data-dir", str(place)]) == 1
    assert "is not UTF-8, as a run's record is; rename it" in capsys.readouterr().err


def test_data_that_are_a_link_to_themselves_are_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The folder's name is asked for before its content."""
    (tmp_path / "loop").symlink_to("loop")
    assert run(["train", "--data-dir", str(tmp_path / "loop")]) == 1
    assert "loop: there is no such file or directory" in capsys.readouterr().err


def test_the_recorded_command_names_no_directories() -> None:
    """The manifest travels; the paths of one machine do not."""
    arguments = ["run", "mnist-deep", "--data-dir", "../data/mnist", "--run-dir=/home/me/runs/a", "--epochs", "3"]
    assert command_text(arguments) == "convtrain run mnist-deep --data-dir mnist --run-dir=a --epochs 3"
    assert command_text(["run", os.fsdecode(b"caf\xe9.toml")]) == r"convtrain run caf\udce9.toml"


def test_a_version_is_inspected(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its files are verified and its golden images replayed."""
    directory = repository / "stripes/1"
    assert run(["inspect", str(directory)]) == 0
    assert "stripes version 1" in capsys.readouterr().out
    assert run(["inspect", str(directory), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["manifest"]["model"] == "stripes"
    assert shown["golden_max_abs_diff"] <= 1e-5
    (directory / "model.onnx").write_bytes(versions.onnx_bytes(seed=1))
    assert run(["inspect", str(directory)]) == 1
    assert "model.onnx: SHA-256 is" in capsys.readouterr().err
    (directory / manifest.MANIFEST_FILE).unlink()
    versions.seal(directory)
    assert run(["inspect", str(directory)]) == 1
    assert "golden.npz: replayed on this CPU, a probability differs by" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["inspect", "table"])
@pytest.mark.parametrize(
    ("name", "damaged", "why"),
    [
        ("model.onnx", b"no model", "model.onnx: onnxruntime cannot run it: "),
        ("golden.npz", b"no arrays", "golden.npz: cannot be read as golden vectors: "),
        ("golden.npz", {}, "golden.npz: cannot be read as golden vectors: "),
        ("golden.npz", {"image": np.empty((0, 8, 8, 1), np.uint8), "probabilities": np.empty(0)}, "golden.npz: holds "),
        ("golden.npz", {"image": np.empty(3, np.uint8), "probabilities": np.empty(0)}, "golden.npz: holds "),
    ],
)
def test_a_version_sealed_as_it_is_and_damaged_is_said_to_be(
    repository: Path,
    capsys: pytest.CaptureFixture[str],
    command: str,
    name: str,
    damaged: bytes | files.Arrays,
    why: str,
) -> None:
    """Other programs make versions too, whose digests are right and whose files are not."""
    path = repository / "stripes/1" / name
    if isinstance(damaged, bytes):
        path.write_bytes(damaged)
    else:
        files.write_arrays(path, damaged)
    (path.parent / manifest.MANIFEST_FILE).unlink()
    versions.seal(path.parent)
    assert run([command, str(path.parent if command == "inspect" else repository)]) == 1
    assert why in capsys.readouterr().err


def test_a_manifest_without_what_is_shown_is_said_to_be(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The format asks for a table of figures, and not for what is in it."""
    directory = repository / "stripes/1"
    content, _ = manifest.read(directory)
    golden = msgspec.structs.replace(content.golden, tolerances={"cuda": 1e-4})
    manifest.write(directory, msgspec.structs.replace(content, golden=golden))
    assert run(["inspect", str(directory)]) == 1
    assert "manifest.json: golden.tolerances has nothing for cpu" in capsys.readouterr().err
    for name in ("metrics", "parity"):
        manifest.write(directory, msgspec.structs.replace(content, **{name: {}}))
        assert run(["table", str(repository)]) == 1
        assert f"manifest.json: holds no {name}" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["tensorflow", "tf2onnx", "onnxruntime"])
def test_what_needs_a_library_says_so(
    name: str, mnist_directory: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before anything is read or written, the message names the extra."""
    monkeypatch.delitem(sys.modules, name, raising=False)
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda wanted: None if wanted == name else find(wanted))
    monkeypatch.chdir(mnist_directory)
    assert run(["train", "mnist-deep", "--data-dir", "."]) == 1
    error = f"convtrain: error: training needs {name}, which is not installed: pip install 'convserve[train]'\n"
    assert capsys.readouterr().err == error
    assert not Path("runs").exists()


def in_a_new_process(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)


def test_the_base_install_names_the_extra() -> None:
    """Where only the client is installed, the command explains itself."""
    done = in_a_new_process("import sys; sys.modules['msgspec'] = None; from convtrain.__main__ import main; main()")
    assert done.returncode == 1
    assert done.stderr == "convtrain: msgspec is not installed; install the extra: pip install 'convserve[train]'\n"


def test_what_a_terminal_cannot_show_is_escaped(repository: Path) -> None:
    """A training does not end in a traceback because a label is not of the terminal's language."""
    version = str(repository / "stripes/1")
    done = subprocess.run(
        [sys.executable, "-m", "convtrain", "inspect", version],
        env=os.environ | {"PYTHONIOENCODING": "ascii"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert r"uint8 8\xd78\xd71" in done.stdout


def test_sigterm_ends_like_ctrl_c() -> None:
    """What stops a container lets a training say what is saved."""
    done = in_a_new_process(
        "import os, signal, sys; from convtrain.cli import catalogue; from convtrain.__main__ import main;"
        "catalogue.presets = lambda *_: os.kill(os.getpid(), signal.SIGTERM);"
        "sys.argv = ['convtrain', 'presets']; main()"
    )
    assert (done.returncode, done.stderr) == (130, "convtrain: interrupted\n")


def test_looking_around_does_not_open_tensorflow() -> None:
    """Listing presets and reading help are quick."""
    done = in_a_new_process(
        "import sys; from convtrain.cli import run; run(['presets']);"
        "print([name for name in ('tensorflow', 'keras', 'onnxruntime') if name in sys.modules])"
    )
    assert done.stdout.splitlines()[-1] == "[]", done.stderr
