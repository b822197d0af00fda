"""Putting a proved export into a model repository as the next version.

::

    <repository>/<model>/labels.txt  config.pbtxt
    <repository>/<model>/.staging-…/            made here, with a name that no server looks at
    <repository>/<model>/<version>/             …and renamed to here when complete

A reader sees a whole version or none. Of two publishers at once, each gets a number of its own: renaming onto a
directory that is not empty fails, and the loser tries the next number.
"""

from __future__ import annotations

import datetime
import errno
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import msgspec

from convserve import manifest
from convserve.arrays import Images
from convserve.errors import ArtifactError
from convserve.manifest import GOLDEN_FILE, ONNX_FILE, InputSpec
from convserve.signing import Signer
from convtrain import backend, files, statistics, triton, warmup
from convtrain.datasets.split import stratified
from convtrain.errors import PublishError
from convtrain.evaluate import Evaluation
from convtrain.export import ExportRecord
from convtrain.history import History
from convtrain.layout import lay_out
from convtrain.predictions import from_onnx
from convtrain.runs import Data, RunRecord

GOLDEN_IMAGES = 64
GOLDEN_TOLERANCES = {"cpu": 1e-5, "cuda": 1e-4}


@dataclass(frozen=True)
class Finished:
    """Everything that the earlier steps of a run left."""

    record: RunRecord
    """What was trained, on which data."""
    data: Data
    """The data themselves."""
    history: History
    """The training's figures."""
    evaluation: Evaluation
    """Figures on the test split."""
    export_directory: Path
    """Where the exported files lie."""
    export: ExportRecord
    """What was proved of them."""


def check_place(record: RunRecord, repository: Path) -> Path:
    """Check that a run may become a version of its model there; worth doing before training.

    Returns:
        The model's directory, which need not exist yet.

    Raises:
        PublishError: the model's versions so far have other labels or another input, or the repository cannot be
            written.
    """
    model_directory = repository / record.preset.model
    existing = next(path for path in (model_directory, *model_directory.absolute().parents) if path.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        raise PublishError(f"{model_directory}: cannot be written, {existing} is not a directory that may be")
    _check_continuity(model_directory, record)
    return model_directory


def publish(finished: Finished, repository: Path, signer: Signer | None = None) -> Path:
    """Publish a run as the next version of its model, signed if there is a signer. Returns the new version directory.

    Raises:
        PublishError: as `check_place`, or files are not those that were proved.
    """
    model_directory = check_place(finished.record, repository)
    try:
        model_directory.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=".staging-", dir=model_directory))
        try:
            staging.chmod(0o755)  # mkdtemp gives 0700, which another user's server could not read
            content = _stage(finished, staging)
            _write_model_files(model_directory, finished.record)
            return _claim_version(staging, model_directory, content, signer)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    except OSError as error:
        raise PublishError(f"{model_directory}: cannot be written ({error})") from error


def versions(model_directory: Path) -> list[int]:
    """Numbers of the versions of a model, complete or not, ascending."""
    if not model_directory.is_dir():
        return []
    names = (entry.name for entry in model_directory.iterdir())
    return sorted(int(name) for name in names if name.isascii() and name.isdecimal())


def _check_continuity(model_directory: Path, record: RunRecord) -> None:
    """Refuse to follow versions that mean something else."""
    labels_path = model_directory / triton.LABELS_FILE
    if labels_path.exists() and labels_path.read_text().splitlines() != record.labels:
        raise PublishError(
            f"{labels_path}: the model's versions so far have other labels than this run; publish under another name "
            "with --model"
        )
    for version in reversed(versions(model_directory)):
        try:
            newest, _ = manifest.read(model_directory / str(version))
        except ArtifactError:
            continue  # not for us to judge; the server says what is wrong with it
        if newest.input != record.preset.input:
            raise PublishError(
                f"{model_directory}: version {version} takes images of {_text(newest.input)}, this run's are "
                f"{_text(record.preset.input)}; publish under another name with --model"
            )
        return


def _stage(finished: Finished, staging: Path) -> manifest.Manifest:
    """Bring all files but the manifest into `staging`. Returns the manifest, but for the version."""
    shutil.copytree(finished.export_directory, staging, dirs_exist_ok=True)
    copied = manifest.digest_files(staging)
    if copied != finished.export.files:
        changed = sorted(name for name, _ in copied.items() ^ finished.export.files.items())
        raise PublishError(
            f"{finished.export_directory / changed[0]}: is not the file that was proved; export again with: "
            "convtrain export"
        )
    test, seed = finished.data.test, finished.record.preset.training.seed
    golden = test.take(stratified(test.labels, min(GOLDEN_IMAGES, len(test)), seed))
    _write_golden(staging, golden.images)
    warmup.write(staging, finished.record.preset.model, golden.images)
    return _describe(finished, staging, len(golden))


def _write_golden(staging: Path, images: Images) -> None:
    """Write inputs and the outputs that servers must reproduce, computed by the very ONNX file that they will run."""
    outputs = from_onnx(staging / ONNX_FILE, images)
    files.write_arrays(
        staging / GOLDEN_FILE,
        {"image": images, "logits": outputs.logits, "probabilities": outputs.probabilities},
    )


def _describe(finished: Finished, staging: Path, golden: int) -> manifest.Manifest:
    """Make the manifest; the version in it stands for the one that will be claimed."""
    record, preset = finished.record, finished.record.preset
    classes = len(record.labels)
    rows = lay_out(preset.architecture, preset.input, classes)
    return manifest.Manifest(
        schema_version=manifest.SCHEMA_VERSION,
        model=preset.model,
        version=1,
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        labels=record.labels,
        input=preset.input,
        decode=preset.decode,
        training=manifest.Training(
            preset=preset.name,
            config=msgspec.to_builtins(preset.training),
            architecture=msgspec.to_builtins(preset.architecture),
            seed=preset.training.seed,
            parameters=sum(row.parameters for row in rows),
            epochs=len(finished.history.epochs),
            seconds=round(finished.history.seconds, 1),
            command=record.command,
        ),
        dataset=record.dataset,
        metrics={"accuracy": finished.evaluation.accuracy, "loss": finished.evaluation.loss},
        per_class_accuracy=finished.evaluation.per_class_accuracy,
        parity=finished.export.parity,
        golden=manifest.Golden(count=golden, tolerances=GOLDEN_TOLERANCES),
        statistics=statistics.measure(finished.data.train, classes),
        frameworks=backend.framework_versions(),
        files=manifest.digest_files(staging),
    )


def _write_model_files(model_directory: Path, record: RunRecord) -> None:
    """Write the files beside the versions, unless they are there: someone may have tuned Triton's settings."""
    preset, labels = record.preset, record.labels
    for name, text in (
        (triton.LABELS_FILE, triton.labels_text(labels)),
        (triton.CONFIG_FILE, triton.config_text(preset.model, preset.input, len(labels))),
    ):
        if not (model_directory / name).exists():
            files.write_bytes(model_directory / name, text.encode())


def _claim_version(staging: Path, model_directory: Path, content: manifest.Manifest, signer: Signer | None) -> Path:
    """Give the staged files the next free number."""
    while True:
        version = max(versions(model_directory), default=0) + 1
        manifest.write(staging, msgspec.structs.replace(content, version=version))
        if signer is not None:
            signer.sign(staging)
        files.sync_tree(staging)
        target = model_directory / str(version)
        try:
            staging.rename(target)
        except OSError as error:
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
                continue  # another publisher was faster
            raise
        files.sync_directory(model_directory)
        return target


def _text(spec: InputSpec) -> str:
    return "×".join(map(str, spec.shape))
