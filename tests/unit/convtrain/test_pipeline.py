"""Steps take from the run directory what earlier steps proved, and nothing else."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest

from convserve import manifest
from convserve.manifest import InputSpec
from convtrain import train
from convtrain.architectures import Architecture, Flatten
from convtrain.calibration import calibrate
from convtrain.config import TrainingConfig
from convtrain.datasets import Dataset, Split
from convtrain.errors import RunError
from convtrain.export import ExportRecord
from convtrain.history import History
from convtrain.pipeline import Pipeline
from convtrain.presets import Preset
from convtrain.runs import Data, Run, RunRecord
from convtrain.variants import VariantRecord
from support import versions

PRESET = Preset(
    name="stripes-preset",
    summary="",
    model="stripes",
    dataset="folder",
    input=InputSpec(height=8, width=8, channels=1),
    architecture=Architecture(layers=(Flatten(),)),
    training=TrainingConfig(epochs=3, batch_size=7, validation_fraction=0.1),
)


@pytest.fixture
def exported(tmp_path: Path) -> Pipeline:
    """A run with an export and an int8 file that passed; only the files, nothing was trained."""
    split = Split(versions.random_images(20), np.arange(20) % 4)
    data = Data(Dataset(name="noise", labels=tuple(versions.LABELS), train=split, test=split), split, split)
    record = RunRecord(
        preset=PRESET,
        data_dir=None,
        check_digests=True,
        limit=None,
        command="",
        labels=versions.LABELS,
        dataset=data.describe(),
    )
    run = Run.create(tmp_path / "run", record)
    run.weights_path.write_bytes(b"weights")
    for directory, name in ((run.export_directory, "model.onnx"), (run.variants_directory, "model.int8.onnx")):
        directory.mkdir()
        (directory / name).write_bytes(versions.onnx_bytes())
    weights_sha256 = manifest.sha256_file(run.weights_path)
    files = manifest.digest_files(run.export_directory)
    run.write(run.export_path, ExportRecord(weights_sha256=weights_sha256, files=files, parity={}))
    tried = manifest.digest_files(run.variants_directory)
    run.write(run.variants_path, VariantRecord(source_sha256=files["model.onnx"], trials={}, files=tried))
    return Pipeline(run, data)


def test_a_temperature_is_chosen_once(exported: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that is finished keeps the one that it was exported with, also on another library."""
    monkeypatch.setattr(train, "train", lambda *_: History())
    monkeypatch.setattr(train, "load_trained", lambda *_: pytest.fail("nothing is left to choose"))
    found = calibrate(None, exported.data.validation.labels, manifest.sha256_file(exported.run.weights_path))
    exported.run.write(exported.run.calibration_path, msgspec.structs.replace(found, temperature=1.7))
    exported.train()
    assert exported._calibration().temperature == 1.7


def test_what_was_proved_is_found(exported: Pipeline) -> None:
    """The files are those that the records speak of."""
    assert exported._exported().files.keys() == {"model.onnx"}
    assert exported._variants().files.keys() == {"model.int8.onnx"}


@pytest.mark.parametrize("harm", [shutil.rmtree, lambda path: (path / "model.onnx").write_bytes(b"")])
def test_an_export_that_is_gone_or_another_is_named(exported: Pipeline, harm: Callable[[Path], object]) -> None:
    """With the command that makes it again; no variants are tried of it."""
    harm(exported.run.export_directory)
    with pytest.raises(RunError, match=r"export/model\.onnx: is not the file that was proved; run again: .* export"):
        exported.try_variants()
    assert exported.run.variants_path.exists()


def test_variants_that_are_gone_are_named(exported: Pipeline) -> None:
    """They do not make a publisher complain of the model repository."""
    shutil.rmtree(exported.run.variants_directory)
    with pytest.raises(RunError, match=r"model\.int8\.onnx: is not the file that was proved; run again: .* quantize"):
        exported._variants()
