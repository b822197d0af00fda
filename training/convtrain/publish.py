"""Putting a proved export into a model repository as the next version.

::

    <repository>/<model>/labels.txt  config.pbtxt
    <repository>/<model>/.staging-…/            made here, with a name that no server looks at
    <repository>/<model>/<version>/             …and renamed to here when complete

A reader sees a whole version or none. Of two publishers at once, each gets a number of its own: renaming onto a
directory that is not empty fails, and the loser tries the next number.
"""

from __future__ import annotations

import contextlib
import datetime
import errno
import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from convserve import manifest
from convserve.arrays import Images
from convserve.errors import ArtifactError
from convserve.manifest import GOLDEN_FILE, ONNX_FILE, InputSpec
from convserve.signing import Signer
from convtrain import backend, files, statistics, triton, warmup
from convtrain.calibration import Calibration
from convtrain.datasets.split import stratified
from convtrain.errors import PublishError
from convtrain.evaluate import Evaluation
from convtrain.export import ExportRecord
from convtrain.history import History
from convtrain.layout import lay_out
from convtrain.predictions import Predictions, from_onnx
from convtrain.runs import Data, RunRecord
from convtrain.variants import FILES, VariantRecord, golden_tolerance

GOLDEN_IMAGES = 64
STAGING_PREFIX = ".staging-"
STALE_SECONDS = 60
LARGEST_VERSION = 10**18 - 1
"""What servers look for: numbers of up to 18 digits, which fit into the 64 bits of every protocol."""
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
    calibration: Calibration
    """The temperature."""
    evaluation: Evaluation
    """Figures on the test split."""
    export_directory: Path
    """Where the exported files lie."""
    export: ExportRecord
    """What was proved of them."""
    variants_directory: Path
    """Where variants of the ONNX file lie."""
    variants: VariantRecord
    """Which variants were tried, and which passed."""


def check_place(record: RunRecord, repository: Path) -> Path:
    """Check that a run may become a version of its model there; worth doing before training.

    Returns:
        The model's directory, which need not exist yet.

    Raises:
        PublishError: the model's versions so far have other labels or another input, no number is left to follow
            them, or the repository cannot be written.
    """
    model_directory = repository / record.preset.model
    # A link to nowhere is there too, and keeps a directory from being made.
    existing = next(path for path in (model_directory, *model_directory.absolute().parents) if os.path.lexists(path))
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        raise PublishError(f"{model_directory}: cannot be written, {existing} is not a directory that may be")
    if (highest := max(versions(model_directory), default=0)) >= LARGEST_VERSION:
        raise PublishError(
            f"{model_directory / str(highest)}: no version can follow, servers take numbers of up to 18 digits; rename "
            "it, or publish into another --model-repository"
        )
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
        with _staging(model_directory) as staging:
            content = _stage(finished, staging)
            _write_model_files(model_directory, staging, finished.record)
            return _claim_version(staging, model_directory, content, finished.record, signer)
    except OSError as error:
        reason = error.args[0][0][2] if isinstance(error, shutil.Error) else error.strerror or error
        raise PublishError(f"{model_directory}: cannot be written ({reason}); nothing was published") from error


@contextlib.contextmanager
def _staging(model_directory: Path) -> Iterator[Path]:
    """A directory to make a version in, which is gone afterwards unless it was renamed.

    Its lock is given up when the process ends, however it ends; by that, what a killed publisher left is told from what
    another is at work on, and removed.
    """
    for path in model_directory.glob(f"{STAGING_PREFIX}*"):
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > STALE_SECONDS:  # a younger one may not have its lock yet
                with _locked(path):
                    shutil.rmtree(path)
    path = Path(tempfile.mkdtemp(prefix=STAGING_PREFIX, dir=model_directory))
    with _locked(path):
        try:
            path.chmod(0o755)  # mkdtemp gives 0700, which another user's server could not read
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)


@contextlib.contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """Hold a directory's lock. Raises BlockingIOError when another process has it."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


def versions(model_directory: Path) -> list[int]:
    """Numbers of the versions of a model, complete or not, ascending."""
    if not model_directory.is_dir():
        return []
    names = (entry.name for entry in model_directory.iterdir())
    return sorted(int(name) for name in names if name.isascii() and name.isdecimal())


def _check_continuity(model_directory: Path, record: RunRecord) -> None:
    """Refuse to follow versions that mean something else."""
    way_out = "train with another --model, or publish into another --model-repository"
    labels_path = model_directory / triton.LABELS_FILE
    if labels_path.exists() and labels_path.read_text("utf-8", "replace").splitlines() != record.labels:
        raise PublishError(f"{labels_path}: the model's versions so far have other labels than this run; {way_out}")
    for version in reversed(versions(model_directory)):
        try:
            newest, _ = manifest.read(model_directory / str(version))
        except ArtifactError:
            continue  # not for us to judge; the server says what is wrong with it
        if newest.labels != record.labels:
            raise PublishError(f"{model_directory}: version {version} has other labels than this run; {way_out}")
        if newest.input != record.preset.input:
            raise PublishError(
                f"{model_directory}: version {version} takes images of {_text(newest.input)}, this run's are "
                f"{_text(record.preset.input)}; {way_out}"
            )
        return


def _stage(finished: Finished, staging: Path) -> manifest.Manifest:
    """Bring all files but the manifest into `staging`. Returns the manifest, but for the version."""
    shutil.copytree(finished.export_directory, staging, dirs_exist_ok=True)
    _check_copied(staging, finished.export.files, finished.export_directory, "export")
    for name in finished.variants.files:
        shutil.copy(finished.variants_directory / name, staging / name)
    _check_copied(staging, finished.export.files | finished.variants.files, finished.variants_directory, "quantize")
    variants = {name: file for name, file in FILES.items() if file in finished.variants.files}
    test, seed = finished.data.test, finished.record.preset.training.seed
    golden = test.take(stratified(test.labels, min(GOLDEN_IMAGES, len(test)), seed))
    outputs = _write_golden(staging, golden.images)
    warmup.write(staging, finished.record.preset.model, golden.images)
    tolerances = dict(GOLDEN_TOLERANCES)
    if "int8" in variants:
        answers = from_onnx(staging / variants["int8"], golden.images)
        tolerances["int8"] = golden_tolerance(outputs, answers)
    return _describe(finished, staging, manifest.Golden(count=len(golden), tolerances=tolerances), variants)


def _check_copied(staging: Path, expected: dict[str, str], source: Path, step: str) -> None:
    """Check that the files in `staging` are those that an earlier step proved."""
    changed = sorted(name for name, _ in manifest.digest_files(staging).items() ^ expected.items())
    if changed:
        raise PublishError(f"{source / changed[0]}: is not the file that was proved; run again: convtrain {step}")


def _write_golden(staging: Path, images: Images) -> Predictions:
    """Write inputs and the outputs that servers must reproduce, computed by the very ONNX file that they will run.

    Returns the outputs.
    """
    outputs = from_onnx(staging / ONNX_FILE, images)
    files.write_arrays(
        staging / GOLDEN_FILE,
        {"image": images, "logits": outputs.logits, "probabilities": outputs.probabilities},
    )
    return outputs


def _describe(
    finished: Finished, staging: Path, golden: manifest.Golden, variants: dict[str, str]
) -> manifest.Manifest:
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
            frameworks=record.frameworks,
        ),
        dataset=record.dataset,
        metrics=_metrics(finished.evaluation),
        per_class_accuracy=finished.evaluation.per_class_accuracy,
        parity=finished.export.parity,
        golden=golden,
        temperature=finished.calibration.temperature,
        statistics=statistics.measure(finished.data.train, classes),
        variants=variants,
        trials=finished.variants.trials,
        frameworks=backend.framework_versions(),
        files=manifest.digest_files(staging),
    )


def _metrics(evaluation: Evaluation) -> dict[str, float]:
    return {
        "accuracy": evaluation.accuracy,
        "loss": evaluation.loss,
        "ece": evaluation.ece,
        "ece_uncalibrated": evaluation.ece_uncalibrated,
    }


def _write_model_files(model_directory: Path, staging: Path, record: RunRecord) -> None:
    """Write the files beside the versions, unless they are there: someone may have tuned Triton's settings.

    They are made in `staging`, which goes with all that is in it when this process is killed.
    """
    preset, labels = record.preset, record.labels
    for name, text in (
        (triton.LABELS_FILE, triton.labels_text(labels)),
        (triton.CONFIG_FILE, triton.config_text(preset.model, preset.input, len(labels))),
    ):
        if not (model_directory / name).exists():
            files.write_bytes(staging / name, text.encode())
            (staging / name).replace(model_directory / name)


def _claim_version(
    staging: Path, model_directory: Path, content: manifest.Manifest, record: RunRecord, signer: Signer | None
) -> Path:
    """Give the staged files the next free number."""
    while True:
        version = max(versions(model_directory), default=0) + 1
        _check_continuity(model_directory, record)  # another publisher may have been faster
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
