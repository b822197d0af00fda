"""What computes: one module for each runtime, opened by name and late, so that nobody loads what he does not use."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from convserve.arrays import Images
from convserve.batching import Outputs
from convserve.manifest import Manifest


class Runtime(Protocol):
    """A model version that can compute. `run` may be called from several threads at once."""

    provider: str
    """The runtime's own name of what computes, such as `CPUExecutionProvider`."""
    device: str
    """`cpu` or `cuda`: which golden tolerance applies."""
    variant: str
    """Which of the version's files computes: `fp32` or `int8`."""

    def run(self, images: Images) -> Outputs:
        """Compute a batch, uint8 [n, H, W, C]. The arrays returned have n rows."""

    def close(self) -> None:
        """Free what the model holds."""


class RuntimeFactory(Protocol):
    """Builds the runtime of one version from its proved files."""

    def __call__(self, directory: Path, manifest: Manifest) -> Runtime:
        """Load a version.

        Raises:
            ArtifactError: a file is damaged, or is not the model that the manifest describes.
            RuntimeNotInstalledError: the runtime or device is missing.
        """
