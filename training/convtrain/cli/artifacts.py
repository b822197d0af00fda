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
from convserve.manifest import GOLDEN_FILE, ONNX_FILE, Manifest
from convtrain.predictions import from_onnx


def inspect(options: argparse.Namespace, _: Sequence[str]) -> None:
    """Verify a version's files, replay its golden images in onnxruntime, and show its manifest."""
    content, digest = manifest.read(options.version)
    manifest.verify_files(options.version, content)
    difference = replay(options.version, content)
    if options.json:
        proof = {"manifest_sha256": digest, "golden_max_abs_diff": difference}
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


def replay(directory: Path, content: Manifest) -> float:
    """Run the golden images in onnxruntime on the CPU. Returns the largest difference of a probability.

    Raises:
        ArtifactError: it is larger than the manifest accepts.
    """
    path = directory / GOLDEN_FILE
    with np.load(path, allow_pickle=False) as golden:
        images, expected = golden["image"], golden["probabilities"]
    difference = float(np.abs(from_onnx(directory / ONNX_FILE, images).probabilities - expected).max())
    if not difference <= content.golden.tolerances["cpu"]:
        raise ArtifactError(
            f"{path}: replayed on this CPU, a probability differs by {difference:.3g}; the manifest accepts "
            f"{content.golden.tolerances['cpu']:g}"
        )
    return difference
