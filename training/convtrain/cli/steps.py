"""`convtrain train`, `evaluate`, `export`, `publish`, and `run`, which does them all."""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import os
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from convserve.manifest import InputSpec
from convserve.signing import Signer
from convtrain import backend
from convtrain.errors import DatasetError, PresetError
from convtrain.evaluate import Evaluation
from convtrain.export import ExportRecord
from convtrain.history import History
from convtrain.pipeline import Pipeline
from convtrain.presets import FOR_FOLDERS, Preset, find
from convtrain.progress import console
from convtrain.publish import check_place
from convtrain.runs import Run, RunRecord, load_data

_CHOICES = (
    "preset",
    "dataset",
    "skip_digest_check",
    "image_size",
    "channels",
    "limit",
    "model",
    "epochs",
    "batch_size",
    "learning_rate",
    "validation_fraction",
    "precision",
    "seed",
    "run_dir",
)


def train(options: argparse.Namespace, arguments: Sequence[str]) -> None:
    """Train a preset."""
    with _started(options, arguments) as pipeline:
        history = pipeline.train()
    _show(options, {"run": str(pipeline.run.directory)} | _training(history))


def evaluate(options: argparse.Namespace, _: Sequence[str]) -> None:
    """Measure a run."""
    with _opened(options.run, options.data_dir) as pipeline:
        result = pipeline.evaluate()
    _show(options, msgspec.to_builtins(result) if options.json else _evaluation(result))


def export(options: argparse.Namespace, _: Sequence[str]) -> None:
    """Export a run."""
    with _opened(options.run, options.data_dir) as pipeline:
        result = pipeline.export()
    _show(options, {"export": str(pipeline.run.export_directory)} | _parity(result))


def quantize(options: argparse.Namespace, _: Sequence[str]) -> None:
    """Try faster variants of a run's export."""
    with _opened(options.run, options.data_dir) as pipeline:
        result = pipeline.try_variants()
    _show(options, msgspec.to_builtins(result.trials))


def report(options: argparse.Namespace, _: Sequence[str]) -> None:
    """Write a run's report."""
    with _opened(options.run, options.data_dir) as pipeline:
        path = pipeline.report()
    _show(options, {"report": str(path)})


def publish(options: argparse.Namespace, _: Sequence[str]) -> None:
    """Publish a run."""
    signer = _signer(options)
    with _opened(options.run, options.data_dir) as pipeline:
        version = pipeline.publish(options.model_repository, signer)
    _show(options, {"version": str(version)})


def run(options: argparse.Namespace, arguments: Sequence[str]) -> None:
    """Do every step."""
    signer = _signer(options)
    with _started(options, arguments) as pipeline:
        history = pipeline.train()
        evaluation = pipeline.evaluate()
        console.print(f"accuracy {evaluation.accuracy:.4f} on {evaluation.images} test images; exporting")
        exported = pipeline.export()
        trials = pipeline.try_variants().trials if options.variants else {}
        page = pipeline.report()
        version = pipeline.publish(options.model_repository, signer)
    _show(
        options,
        {"run": str(pipeline.run.directory)}
        | _training(history)
        | _evaluation(evaluation)
        | _parity(exported)
        | ({"variants": {name: trial.verdict for name, trial in trials.items()}} if trials else {})
        | {"report": str(page), "version": str(version)},
    )
    if options.serve:
        _serve(options.model_repository)


def _serve(repository: Path) -> None:
    """Become the server: it gets the signals, and TensorFlow's memory is given back."""
    sys.stdout.flush()
    command = [sys.executable, "-m", "convserve", "serve", "--model-repository", str(repository)]
    os.execv(sys.executable, command)  # noqa: S606  # no shell, and nothing in it comes from elsewhere


@contextlib.contextmanager
def _started(options: argparse.Namespace, arguments: Sequence[str]) -> Iterator[Pipeline]:
    """Begin a new run, or go on with one."""
    if options.resume is not None:
        given = [name for name in _CHOICES if getattr(options, name) is not None]
        if given:
            raise PresetError(f"--resume goes on with the run's own settings; leave out {', '.join(given)}")
        begun = Run.open(options.resume).record
        _check_place(options, begun)
        backend.choose(options.backend or begun.backend or "tensorflow")
        with _opened(options.resume, options.data_dir) as pipeline:
            yield pipeline
        return
    backend.choose(options.backend or "tensorflow")
    preset = _preset(options)
    preset.check()  # what does not fit is refused before the data are read
    backend.require()
    data_dir = None if options.data_dir is None else _as_text(options.data_dir)
    data = load_data(preset, options.data_dir, options.limit, check_digests=not options.skip_digest_check)
    for found in data.duplicates:
        console.print(f"warning: {found.summary} Such as {found.examples}")
    record = RunRecord(
        preset=preset,
        data_dir=data_dir,
        check_digests=not options.skip_digest_check,
        limit=options.limit,
        command=command_text(arguments),
        labels=list(data.dataset.labels),
        dataset=data.describe(),
        backend=backend.chosen(),
        frameworks=backend.training_versions(),
    )
    _check_place(options, record)
    directory = options.run_dir or _new_directory(preset.name)
    run = Run.create(directory, record)
    console.print(f"run {directory}: {len(data.train)} training, {len(data.validation)} validation images")
    with run.claimed():
        yield Pipeline(run, data)


def _check_place(options: argparse.Namespace, record: RunRecord) -> None:
    """Check that `run` may publish there, before hours of training."""
    if "model_repository" in options:
        check_place(record, options.model_repository)


def _as_text(data_dir: Path) -> str:
    """The whole path of the data, for the run's record.

    Raises:
        DatasetError: it is not UTF-8.
    """
    path = os.path.realpath(data_dir)
    try:
        path.encode()
    except UnicodeEncodeError as error:
        raise DatasetError(f"{path!r}: is not UTF-8, as a run's record is; rename it") from error
    return path


def _new_directory(preset: str) -> Path:
    """Make a directory for a run, also where others begin in the same second."""
    name = f"{preset}-{datetime.datetime.now(datetime.UTC):%Y%m%d-%H%M%S}"
    directory, number = Path("runs") / name, 1
    directory.parent.mkdir(exist_ok=True)
    while True:
        try:
            directory.mkdir()
        except FileExistsError:
            number += 1
            directory = Path("runs") / f"{name}-{number}"
        else:
            return directory


@contextlib.contextmanager
def _opened(directory: Path, data_dir: Path | None) -> Iterator[Pipeline]:
    """Go on with an existing run."""
    run = Run.open(directory)
    backend.require()
    with run.claimed():
        yield Pipeline(run, run.load_data(data_dir))


def _signer(options: argparse.Namespace) -> Signer | None:
    """What signs the version; its key is read before hours of training."""
    return Signer(options.sign) if options.sign is not None else None


def _preset(options: argparse.Namespace) -> Preset:
    if options.preset is not None:
        preset = find(options.preset)
    elif options.data_dir is not None and options.dataset in (None, "folder"):
        preset = FOR_FOLDERS.override(model=_model_name(options.data_dir))
    else:
        raise PresetError(
            "which preset? See `convtrain presets`, give a folder of images with --data-dir, or go on with --resume RUN"
        )
    kind = options.dataset or preset.dataset
    spec = preset.input
    if options.image_size is not None or options.channels is not None:
        if kind != "folder":
            raise PresetError(f"--image-size and --channels are for --dataset folder; {kind} has its own")
        height, width = _image_size(options.image_size) if options.image_size else (spec.height, spec.width)
        spec = InputSpec(height=height, width=width, channels=options.channels or spec.channels)
    return preset.override(
        dataset=kind,
        input=spec,
        model=options.model,
        epochs=options.epochs,
        batch_size=options.batch_size,
        learning_rate=options.learning_rate,
        validation_fraction=options.validation_fraction,
        precision=options.precision,
        seed=options.seed,
    )


def _model_name(folder: Path) -> str:
    """A model name from a folder's: what a repository does not take becomes a dash."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", Path(os.path.realpath(folder)).name).strip("-._")[:128] or FOR_FOLDERS.model


def _image_size(text: str) -> tuple[int, int]:
    """Height and width from `64` or `64x48`."""
    height, _, width = text.partition("x")
    try:
        size = (int(height), int(width or height))
    except ValueError:
        size = (0, 0)
    if min(size) < 1:
        raise PresetError(f"--image-size is {text!r}; wanted is HEIGHTxWIDTH in pixels, such as 64x48, or one number")
    return size


def command_text(arguments: Sequence[str]) -> str:
    """The command for the manifest: directories are this machine's affair, so only their last parts stay."""
    shortened = []
    for argument in arguments:
        option, equals, value = argument.partition("=") if argument.startswith("--") else ("", "", argument)
        if os.sep in value:
            value = Path(value).name
        shortened.append(f"{option}{equals}{value}")
    return " ".join(["convtrain", *shortened]).encode(errors="backslashreplace").decode()


def _training(history: History) -> dict[str, Any]:
    best = history.epochs[history.best - 1]
    return {
        "epochs": len(history.epochs),
        "best_epoch": history.best,
        "validation_accuracy": best.validation_accuracy,
        "training_seconds": round(history.seconds, 1),
    }


def _evaluation(evaluation: Evaluation) -> dict[str, Any]:
    return {
        "accuracy": evaluation.accuracy,
        "loss": evaluation.loss,
        "ece": evaluation.ece,
        "test_images": evaluation.images,
        "per_class_accuracy": evaluation.per_class_accuracy,
    }


def _parity(exported: ExportRecord) -> dict[str, Any]:
    return {"parity": msgspec.to_builtins(exported.parity)}


def _show(options: argparse.Namespace, result: dict[str, Any]) -> None:
    """Print a result for a script or for people."""
    if options.json:
        print(json.dumps(result))
        return
    for name, value in result.items():
        if isinstance(value, dict):
            print(f"{name}:")
            for key, inner in value.items():
                print(f"  {key}: {_value(inner)}")
        else:
            print(f"{name}: {_value(value)}")


def _value(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_value(inner)}" for key, inner in value.items())
    return f"{value:.6g}" if isinstance(value, float) else str(value)
