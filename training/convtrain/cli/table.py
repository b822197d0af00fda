"""`convtrain table`: what is published, side by side, with latencies measured here and now."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from convserve import manifest
from convserve.errors import ArtifactError
from convserve.manifest import ONNX_FILE, Manifest
from convtrain import environment, files, golden, latency, publish
from convtrain.architectures import Architecture
from convtrain.errors import ConvtrainError
from convtrain.layout import lay_out
from convtrain.predictions import onnx_errors

BEGIN, END = "<!-- table: begin -->", "<!-- table: end -->"


def table(options: argparse.Namespace, _: Sequence[str]) -> None:
    """Measure every version of the repositories and print a table, or put it into a Markdown file."""
    found = [_measure(directory) for repository in options.repository for directory in _versions(repository)]
    if not found:
        raise ConvtrainError(f"{', '.join(map(str, options.repository))}: there is no complete version")
    if options.json:
        print(json.dumps(found))
        return
    text = _markdown(found)
    if options.write is None:
        print(text)
    else:
        _insert(options.write, text)


def _versions(repository: Path) -> Iterator[Path]:
    """Version directories below a repository, by model and number."""
    for model in sorted(repository.iterdir()) if repository.is_dir() else []:
        for number in publish.versions(model):
            if (model / str(number) / manifest.MANIFEST_FILE).exists():
                yield model / str(number)


def _measure(directory: Path) -> dict[str, Any]:
    """Figures of one version: those of its manifest, and latencies of this machine."""
    content, _ = manifest.read(directory)
    manifest.verify_files(directory, content)
    for name, figures in (("metrics.accuracy", "accuracy" in content.metrics), ("parity", content.parity)):
        if not figures:
            raise ArtifactError(f"{directory / manifest.MANIFEST_FILE}: holds no {name}, which the table shows")
    images = golden.read(directory, content).images
    with onnx_errors(directory / ONNX_FILE):
        session = latency.open_session(directory / ONNX_FILE)
        seconds = latency.compare_runs({"fp32": session}, images)["fp32"]
    return {
        "model": content.model,
        "version": content.version,
        "preset": content.training.preset,
        "dataset": content.dataset.name,
        "note": content.dataset.note,
        "seed": content.training.seed,
        "test_images": content.dataset.test_images,
        "metrics": content.metrics,
        "temperature": content.temperature,
        "parameters": content.training.parameters,
        "multiply_adds": _multiply_adds(content),
        "bytes": (directory / ONNX_FILE).stat().st_size,
        "milliseconds": {str(size): 1000 * one for size, one in seconds.items()},
        "int8": msgspec.to_builtins(content.trials["int8"]) if "int8" in content.trials else None,
        "parity": max(one.max_abs_diff_probabilities for one in content.parity.values()),
        "training_seconds": content.training.seconds,
    }


def _multiply_adds(content: Manifest) -> int:
    """Multiplications with addition for one image.

    Raises:
        ArtifactError: the manifest's description of the layers is not one that this program knows.
    """
    try:
        architecture = msgspec.convert(content.training.architecture, Architecture)
    except msgspec.ValidationError as error:
        raise ArtifactError(f"{content.model} version {content.version}: training.architecture: {error}") from error
    return sum(row.multiply_adds for row in lay_out(architecture, content.input, len(content.labels)))


def _markdown(found: list[dict[str, Any]]) -> str:
    head = (
        "preset", "published as", "test accuracy", "ECE", "parameters", "multiply-adds", "ONNX file",
        "1 image", "64 images", "int8",
    )  # fmt: skip
    rows = [
        (
            f"`{one['preset']}`",
            f"{one['model']} {one['version']}",
            f"{100 * one['metrics']['accuracy']:.2f} %",
            f"{100 * one['metrics']['ece']:.2f} %" if "ece" in one["metrics"] else "",
            f"{one['parameters']:,}",
            f"{one['multiply_adds'] / 1e6:,.2f} M",
            f"{one['bytes'] / 1e6:.2f} MB",
            f"{one['milliseconds']['1']:.3f} ms",
            f"{one['milliseconds']['64']:.2f} ms",
            _verdict(one["int8"]),
        )
        for one in found
    ]
    lines = [f"| {' | '.join(row)} |" for row in (head, ["---", "---", *["---:"] * 7, "---"], *rows)]
    notes = sorted({f"{one['dataset']}: {one['note']}" for one in found if one["note"]})
    seeds = ", ".join(sorted({str(one["seed"]) for one in found}))
    conditions = (
        f"Accuracy and expected calibration error on the test split, one training each, seed {seeds}. "
        f"Time: least of {latency.ROUNDS} rounds of processor "
        f"time in onnxruntime with one thread, float32, on {environment.processor()}."
    )
    return "\n".join([*lines, "", " ".join([conditions, *notes])])


def _verdict(trial: dict[str, Any] | None) -> str:
    if trial is None:
        return "not tried"
    speeds = " and ".join(f"{value:.2f}" for value in trial["speedup"].values())
    figures = f"{speeds} times as fast, {0.0 - trial['test_loss_points']:+.2f} points of accuracy"
    return f"{'published' if trial['published'] else 'refused'}: {figures}"


def _insert(path: Path, text: str) -> None:
    """Put the table between its marks.

    Raises:
        ConvtrainError: the file does not have them, or is no text.
    """
    try:
        old = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConvtrainError(f"{path}: is not UTF-8 ({error})") from error
    new, count = re.subn(
        f"{re.escape(BEGIN)}.*?{re.escape(END)}", lambda _: f"{BEGIN}\n{text}\n{END}", old, count=1, flags=re.DOTALL
    )
    if not count:
        raise ConvtrainError(f"{path}: has no place for the table, which goes between {BEGIN} and {END}")
    files.write_bytes(path, new.encode())
