"""`convtrain inspect`: what a published version is, and whether it still is that."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np

from convserve import manifest
from convserve.errors import ArtifactError
from convserve.images import decode
from convserve.manifest import GOLDEN_FILE, MANIFEST_FILE, ONNX_FILE, Manifest
from convtrain import feature_maps, files, golden
from convtrain.datasets.folder import MAX_PIXELS
from convtrain.errors import ExportError
from convtrain.predictions import from_onnx, onnx_errors


def inspect(options: argparse.Namespace, _: Sequence[str]) -> None:
    """Verify a version's files, replay its golden images in onnxruntime, and show its manifest."""
    if options.output is not None and options.image is None:
        raise ExportError(f"--output {options.output}: is for a drawing; name the image to draw the feature maps of")
    content, digest = manifest.read(options.version)
    manifest.verify_files(options.version, content)
    difference = replay(options.version, content)
    drawing = _draw(options, content) if options.image is not None else None
    if options.json:
        proof: dict[str, object] = {"manifest_sha256": digest, "golden_max_abs_diff": difference}
        if drawing is not None:
            proof["feature_maps"] = str(drawing)
        print(json.dumps(proof | {"manifest": msgspec.to_builtins(content)}))
        return
    training, dataset = content.training, content.dataset
    print(f"{content.model} version {content.version}, published {content.created}, manifest {digest[:12]}")
    print(f"  input     uint8 {'×'.join(map(str, content.input.shape))}; classes: {', '.join(content.labels)}")
    print(
        f"  training  preset {training.preset}, seed {training.seed}, {training.epochs} epochs, {training.seconds:g} s"
    )
    print(f"            {training.parameters:,} parameters; {training.command}")
    sizes = f"{dataset.train_images} + {dataset.validation_images} + {dataset.test_images}"
    print(f"  data      {dataset.name}: {sizes} images to train, choose and test. {dataset.note}".rstrip())
    print(f"  test      {', '.join(f'{name} {value:.6g}' for name, value in content.metrics.items())}")
    for form, parity in content.parity.items():
        print(f"  parity    {form}: {parity.max_abs_diff_probabilities:.2g} over {parity.images} images")
    size = sum((options.version / name).stat().st_size for name in content.files)
    print(f"  files     {len(content.files)}, {size / 1e6:.1f} MB, every digest right")
    print(f"  golden    {content.golden.count} images replayed on this CPU: largest difference {difference:.2g}")
    if content.temperature != 1.0:
        print(f"  calibrated with temperature {content.temperature:g}")
    for name, trial in content.trials.items():
        print(f"  variant   {name}: {'published' if trial.published else 'not published'}, {trial.verdict}")
    if drawing is not None:
        print(f"  features  {drawing}")


def _draw(options: argparse.Namespace, content: Manifest) -> Path:
    """Draw what the version's first convolutions make of an image file. Returns the drawing's path.

    Raises:
        InvalidRequestError: the file is not an image.
        ExportError: the version has no convolution.
    """
    from convtrain.report import figures  # late: it opens matplotlib

    pixels = decode(
        options.image.read_bytes(), content.input, content.decode, max_pixels=MAX_PIXELS, field=str(options.image)
    ).pixels
    found = feature_maps.compute(options.version / ONNX_FILE, pixels[None])
    if not found:
        raise ExportError(f"{options.version}: has no convolution whose feature maps could be drawn")
    target: Path = options.output or Path(f"{options.image.stem}-features.svg")
    files.write_bytes(target, figures.feature_maps(pixels, found).encode())
    return target


def replay(directory: Path, content: Manifest) -> float:
    """Run the golden images in onnxruntime on the CPU. Returns the largest difference of a probability.

    Raises:
        ArtifactError: it is larger than the manifest accepts, or the golden file is damaged.
        ExportError: onnxruntime cannot run the file.
    """
    path, accepted = directory / GOLDEN_FILE, content.golden.tolerances.get("cpu")
    if accepted is None:
        raise ArtifactError(f"{directory / MANIFEST_FILE}: golden.tolerances has nothing for cpu")
    images, expected = golden.read(directory, content)
    with onnx_errors(directory / ONNX_FILE):
        found = from_onnx(directory / ONNX_FILE, images).probabilities
    if found.shape != expected.shape:
        raise ArtifactError(f"{path}: replayed, probabilities are {found.shape}, expected {expected.shape}")
    difference = float(np.abs(found - expected).max())
    if not difference <= accepted:
        raise ArtifactError(
            f"{path}: replayed on this CPU, a probability differs by {difference:.3g}; the manifest accepts "
            f"{accepted:g}"
        )
    return difference
