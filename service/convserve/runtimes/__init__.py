"""What computes: one module for each runtime, opened by name and late, so that nobody loads what he does not use."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from convserve.arrays import Images
from convserve.batching import Outputs
from convserve.devices import Device, RuntimeName
from convserve.errors import RuntimeNotInstalledError
from convserve.manifest import Manifest


class Runtime(Protocol):
    """A model version that can compute. `run` may be called from several threads at once."""

    provider: str
    """The runtime's own name of what computes, such as `CPUExecutionProvider`."""
    device: Device
    """What it computes on; decides about the golden tolerance."""
    variant: str
    """Which of the version's files computes: `fp32`, `optimized`, `int8` or `saved_model`."""
    most_rows: int | None
    """Rows that it computes at once; `run` cuts a larger batch into equal pieces. None: every batch at once."""

    def run(self, images: Images) -> Outputs:
        """Compute a batch, uint8 [n, H, W, C]. The arrays returned have n rows."""

    def trim(self) -> None:
        """Give back memory that only the largest batches needed. The next large one takes it again."""

    def close(self) -> None:
        """Free what the model holds."""


def open_runtime(
    directory: Path,
    manifest: Manifest,
    *,
    runtime: RuntimeName = "onnxruntime",
    device: Device = "cpu",
    variant: str = "fp32",
    intra_op_threads: int = 1,
) -> Runtime:
    """Load a version whose digests were checked.

    Raises:
        ArtifactError: a file is damaged, or is not the model that the manifest describes.
        RuntimeNotInstalledError: the runtime or the device is missing; names the extra to install.
    """
    try:
        if runtime == "tensorflow":
            from convserve.runtimes.tensorflow import TensorFlowRuntime

            return TensorFlowRuntime(directory, manifest, device=device, intra_op_threads=intra_op_threads)
        from convserve.runtimes.onnx import OnnxRuntime

        return OnnxRuntime(directory, manifest, device=device, variant=variant, intra_op_threads=intra_op_threads)
    except ModuleNotFoundError as error:
        extra = "tensorflow" if runtime == "tensorflow" else "server"
        raise RuntimeNotInstalledError(
            f"runtime is {runtime!r}, and {error.name} is not installed; pip install 'convserve[{extra}]'"
        ) from error
