"""What all servers serve."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from convserve import manifest as manifests
from convserve.manifest import Manifest

SERVERS = Path(__file__).parent / "servers"


@dataclass(frozen=True)
class Model:
    """A version of a model."""

    name: str
    directory: Path
    """The version directory."""
    manifest: Manifest
    digest: str

    @property
    def onnx(self) -> Path:
        """The very file that all of them load."""
        return self.directory / manifests.ONNX_FILE

    @property
    def golden(self) -> Path:
        """Images and their answers."""
        return self.directory / manifests.GOLDEN_FILE

    @property
    def classes(self) -> int:
        """How many."""
        return len(self.manifest.labels)

    def random_images(self, count: int) -> npt.NDArray[np.uint8]:
        """Images by chance, the same each time."""
        shape = (count, *self.manifest.input.shape)
        return np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8)

    def golden_answers(self, count: int) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32]]:
        """Golden images and their probabilities."""
        with np.load(self.golden) as arrays:
            return arrays["image"][:count], arrays["probabilities"][:count]


def newest(repository: Path, name: str) -> Model:
    """The newest version of a model in a repository."""
    root = repository.resolve() / name
    directory = max((entry for entry in root.iterdir() if entry.name.isdigit()), key=lambda entry: int(entry.name))
    manifest, digest = manifests.read(directory)
    return Model(name, directory, manifest, digest)
