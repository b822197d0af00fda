"""onnxruntime, on a CPU or a GPU. The only module that imports it."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # read once, by the import: else it reports to its makers
import onnxruntime as ort

from convserve.arrays import Images
from convserve.batching import Outputs
from convserve.devices import Device
from convserve.errors import ArtifactError, RuntimeNotInstalledError
from convserve.manifest import INPUT_NAME, LOGITS_NAME, ONNX_FILE, PROBABILITIES_NAME, Manifest, read_file

ort.disable_telemetry_events()  # for builds that do not read the variable
ort.set_default_logger_severity(3)  # errors only: its warnings speak to people who build graphs
# What lies between the layers of a CPU's sessions comes from one arena: what one has used, the next one uses. Weights
# stay out of it (below), so that between two runs none of it is in use, and `trim` gives back what no other run holds.
ort.create_and_register_allocator(
    ort.OrtMemoryInfo("Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT),
    ort.OrtArenaCfg(0, -1, -1, -1),  # no limit, and the defaults for how it grows
)

_PROVIDERS: dict[Device, tuple[str, dict[str, Any]]] = {
    "cpu": ("CPUExecutionProvider", {}),
    # TF32 rounds to ten bits of mantissa, which no golden tolerance would forgive. The arena grows by what is needed,
    # not by powers of two: several versions share a card.
    "cuda": ("CUDAExecutionProvider", {"use_tf32": "0", "arena_extend_strategy": "kSameAsRequested"}),
    "tensorrt": ("TensorrtExecutionProvider", {}),
}


_LEAST_ROWS_AT_ONCE, _ROWS_FOR_EACH_THREAD = 16, 8
"""Rows of one run on a CPU. More are no faster a row, and what lies between two layers grows with them, for good: the
bundled cifar10 takes 43 MB for 64 rows at once, 10 MB for 16."""


class OnnxRuntime:
    """An ONNX model in an onnxruntime session."""

    def __init__(
        self,
        directory: Path,
        manifest: Manifest,
        *,
        device: Device = "cpu",
        variant: str = "fp32",
        intra_op_threads: int = 1,
    ) -> None:
        """Load an ONNX file of a version.

        The bytes that are hashed are the bytes that are loaded: a file that changes in between changes nothing.

        Args:
            directory: the version's.
            manifest: the version's.
            device: what computes. Asking for a GPU and getting a CPU is an error.
            variant: `fp32`, or one of the manifest's variants.
            intra_op_threads: threads that compute one batch on a CPU.

        Raises:
            ArtifactError: the file is missing or altered, or its inputs and outputs are not what the manifest says.
            RuntimeNotInstalledError: this onnxruntime, or this machine, does not have the device.
        """
        name = _file_of(variant, manifest)
        path = directory / name
        content = _read_proved(path, manifest.files[name])
        options = ort.SessionOptions()
        options.intra_op_num_threads = intra_op_threads
        options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if device == "cpu":
            options.add_session_config_entry("session.use_env_allocators", "1")
            options.add_session_config_entry("session.use_device_allocator_for_initializers", "1")
        if variant == "optimized":
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        provider, provider_options = _provider(device)
        try:
            self._session = ort.InferenceSession(
                content, options, providers=[(provider, provider_options)], enable_fallback=False
            )
        except Exception as error:  # onnxruntime raises a dozen classes of its own that share no base
            raise ArtifactError(f"{path}: onnxruntime cannot load it: {error}") from error
        self._session._model_bytes = b""  # noqa: SLF001  # a copy that the wrapper keeps for a fallback
        self.provider: str = self._session.get_providers()[0]
        if self.provider != provider:
            raise RuntimeNotInstalledError(
                f"{path}: {provider} was asked for and onnxruntime fell back to {self.provider}; see its messages above"
                " for the library or driver it misses"
            )
        self.device: Device = device
        self.variant = variant
        self.most_rows: int | None = None  # a GPU has memory for it, and is the faster the larger a batch is
        if device == "cpu":
            self.most_rows = max(_LEAST_ROWS_AT_ONCE, _ROWS_FOR_EACH_THREAD * intra_op_threads)
        self._shape = manifest.input.shape
        _check_signature(path, self._session, manifest)

    def run(self, images: Images) -> Outputs:
        """Compute a batch, uint8 [n, H, W, C]."""
        if self.most_rows is None or len(images) <= self.most_rows:
            return self._run_at_once(images)
        pieces = np.array_split(images, -(-len(images) // self.most_rows))
        logits, probabilities = zip(*map(self._run_at_once, pieces), strict=True)
        return Outputs(np.concatenate(logits), np.concatenate(probabilities))

    def _run_at_once(self, images: Images) -> Outputs:
        logits, probabilities = self._session.run([LOGITS_NAME, PROBABILITIES_NAME], {INPUT_NAME: images})
        return Outputs(logits, probabilities)

    def trim(self) -> None:
        """Run one row, after which the arena keeps what that needed. A GPU keeps everything: taking it again stalls."""
        if self.device == "cpu":
            options = ort.RunOptions()
            options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
            self._session.run([PROBABILITIES_NAME], {INPUT_NAME: np.zeros((1, *self._shape), np.uint8)}, options)

    def close(self) -> None:
        """Free the session."""
        del self._session


def available_providers() -> list[str]:
    """What this onnxruntime was built for, best first."""
    return list(ort.get_available_providers())


def _file_of(variant: str, manifest: Manifest) -> str:
    """The file that holds a variant.

    Raises:
        ArtifactError: the version does not have it.
    """
    if variant == "fp32":
        return ONNX_FILE
    if variant not in manifest.variants:
        raise ArtifactError(
            f"{manifest.model} version {manifest.version} has no variant {variant!r}; it has:"
            f" {', '.join(['fp32', *manifest.variants])}"
        )
    return manifest.variants[variant]


def _provider(device: Device) -> tuple[str, dict[str, Any]]:
    """Name and options that onnxruntime has for a device.

    Raises:
        RuntimeNotInstalledError: this onnxruntime was built without it.
    """
    provider = _PROVIDERS[device]
    if device != "cpu" and hasattr(ort, "preload_dlls"):
        ort.preload_dlls()  # finds the CUDA libraries that came as Python packages
    if provider[0] not in ort.get_available_providers():
        raise RuntimeNotInstalledError(
            f"device is {device!r}, and this onnxruntime has only {', '.join(ort.get_available_providers())}; install"
            " the GPU build in its place: pip uninstall onnxruntime && pip install 'convserve[gpu]'"
        )
    return provider


def _read_proved(path: Path, expected: str) -> bytes:
    """Read a file whose SHA-256 must be `expected`."""
    try:
        content = read_file(path)
    except OSError as error:
        raise ArtifactError(f"{path}: cannot be read ({error.strerror})") from error
    actual = hashlib.sha256(content).hexdigest()
    if actual != expected:
        raise ArtifactError(
            f"{path}: SHA-256 is {actual}, the manifest says {expected}; the file is not the one published"
        )
    return content


def _check_signature(path: Path, session: ort.InferenceSession, manifest: Manifest) -> None:
    """Compare the graph's inputs and outputs with the manifest."""
    actual = {
        node.name: (node.type, [size if isinstance(size, int) else None for size in node.shape])
        for node in (*session.get_inputs(), *session.get_outputs())
    }
    classes = len(manifest.labels)
    expected = {
        INPUT_NAME: ("tensor(uint8)", [None, *manifest.input.shape]),
        LOGITS_NAME: ("tensor(float)", [None, classes]),
        PROBABILITIES_NAME: ("tensor(float)", [None, classes]),
    }
    if actual != expected:
        raise ArtifactError(f"{path}: inputs and outputs are {actual}; the manifest wants {expected}")
