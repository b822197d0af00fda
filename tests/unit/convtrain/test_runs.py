"""A run directory belongs to one process at a time and says what is missing in it."""

from __future__ import annotations

from pathlib import Path

import pytest

from convtrain.datasets import Dataset
from convtrain.errors import DatasetError, PresetError, RunError
from convtrain.evaluate import Evaluation
from convtrain.presets import find
from convtrain.runs import Run, RunRecord, load_data


@pytest.fixture
def run(tmp_path: Path, mnist_directory: Path) -> Run:
    """A run that has just begun."""
    preset = find("mnist-deep")
    data = load_data(preset, mnist_directory, 100, check_digests=False)
    record = RunRecord(
        preset=preset,
        data_dir=str(mnist_directory),
        check_digests=False,
        limit=100,
        command="convtrain train mnist-deep",
        labels=list(data.dataset.labels),
        dataset=data.describe(),
    )
    return Run.create(tmp_path / "run", record)


def test_a_run_is_opened_as_it_was_created(run: Run) -> None:
    """The record holds all that the later steps need."""
    opened = Run.open(run.directory)
    assert opened.record == run.record
    data = opened.load_data()
    assert data.describe() == run.record.dataset
    assert (len(data.train), len(data.validation), len(data.test)) == (90, 10, 100)


def test_something_must_be_left_to_train_on(mnist_directory: Path) -> None:
    """A validation split that takes all is refused before anything is written."""
    preset = find("mnist-deep").override(validation_fraction=0.9)
    with pytest.raises(PresetError, match="leaves none of 3 images to train on"):
        load_data(preset, mnist_directory, 3, check_digests=False)


def test_a_directory_holds_one_run(run: Run, tmp_path: Path) -> None:
    """Nothing is overwritten, and nothing else is taken for a run."""
    with pytest.raises(RunError, match="holds a run already; continue it with --resume"):
        Run.create(run.directory, run.record)
    with pytest.raises(RunError, match="is not a run directory"):
        Run.open(tmp_path)
    run.record_path.write_text("{}")
    with pytest.raises(RunError, match=r"run\.json: cannot be read"):
        Run.open(run.directory)


def test_two_processes_do_not_work_on_one_run(run: Run) -> None:
    """The second is told, and may come when the first has left."""
    with run.claimed(), pytest.raises(RunError, match="another process is at work"), Run.open(run.directory).claimed():
        pass
    with run.claimed():
        pass


def test_two_processes_do_not_make_one_run(run: Run) -> None:
    """The second does not write its settings over those of the first, which is about to train by them."""
    run.record_path.unlink()
    with run.claimed(), pytest.raises(RunError, match="another process is at work"):
        Run.create(run.directory, run.record)
    assert not run.record_path.exists()


def test_what_a_killed_process_left_half_written_goes_with_the_next(run: Run) -> None:
    """Checkpoints are large, and a machine that is taken away now and then would leave many halves of them."""
    left = [run.directory / f".{name}.x7_abcde" for name in ("checkpoint.npz", "history.csv", "report.html")]
    for path in left:
        path.write_bytes(b"half")
    run.checkpoint_path.write_bytes(b"whole")
    with run.claimed():
        assert not any(path.exists() for path in left)
        assert run.checkpoint_path.exists()


def test_a_missing_step_is_named(run: Run) -> None:
    """With the command that does it."""
    with pytest.raises(RunError, match=r"evaluation\.json: there is no such file; first run: convtrain evaluate .*run"):
        run.read(run.evaluation_path, Evaluation, "evaluate")


def test_other_data_are_noticed(run: Run, mnist_directory: Path, mnist_sample: Dataset) -> None:
    """The splits are those the run began with, to the byte; they may lie elsewhere."""
    moved = mnist_directory.rename(mnist_directory.with_name("moved"))
    with pytest.raises(DatasetError, match="there is no such file or directory"):
        run.load_data()
    assert run.load_data(moved).describe() == run.record.dataset
    images = moved / "t10k-images-idx3-ubyte"
    images.write_bytes(images.read_bytes()[:16] + b"\x01" * (images.stat().st_size - 16))
    with pytest.raises(DatasetError, match="the test split is not the one this run began with"):
        run.load_data(moved)
