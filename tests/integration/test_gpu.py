"""What only a machine with CUDA can show; `make test-gpu` runs these. They skip with a reason elsewhere."""

from __future__ import annotations

import statistics
import time
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

import convserve
from convserve import manifest as m
from convserve import proving
from convserve.runtimes.onnx import OnnxRuntime
from support.server import serving

MODELS = Path(__file__).parents[2] / "models"
HAS_CUDA = "CUDAExecutionProvider" in ort.get_available_providers()

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not HAS_CUDA, reason="no CUDA device, or onnxruntime was built without CUDA"),
]


def newest(name: str) -> Path:
    return max((one for one in (MODELS / name).iterdir() if one.name.isdigit()), key=lambda one: int(one.name))


@pytest.mark.parametrize("name", ["mnist", "cifar10"])
def test_parity_with_tf32_off(name: str) -> None:
    """The golden vectors hold on the card within the manifest's tolerance for CUDA, in every bucket."""
    manifest, _ = m.read(newest(name))
    runtime = OnnxRuntime(newest(name), manifest, device="cuda")
    assert runtime.provider == "CUDAExecutionProvider"
    proving.prove(newest(name), manifest, runtime, [1, 2, 4, 8, 16, 32, 64])


def test_the_server_pads_to_warmed_buckets_and_says_so(tmp_path: Path) -> None:
    """Five rows run as eight, on the card."""
    manifest, _ = m.read(newest("mnist"))
    golden = proving.read_golden(newest("mnist"), manifest)
    with (
        serving(MODELS, tmp_path, "--model-device", "cuda") as server,
        convserve.Client(server.target) as client,
    ):
        served = client.classify_batch(golden.images[:5], model="mnist", explain=True)
        assert [one.index for one in served] == golden.probabilities[:5].argmax(1).tolist()
        assert served[0].batch is not None
        assert served[0].batch.provider == "CUDAExecutionProvider"
        assert (served[0].batch.rows, served[0].batch.padded_rows) == (5, 8)


def test_batches_of_64_reach_raw_throughput_in_the_right_order_of_magnitude() -> None:
    """A session of ours costs no more than a tenth over onnxruntime alone (medians of alternating runs)."""
    directory = newest("cifar10")
    manifest, _ = m.read(directory)
    ours = OnnxRuntime(directory, manifest, device="cuda")
    ort.preload_dlls()
    raw = ort.InferenceSession(directory / m.ONNX_FILE, providers=[("CUDAExecutionProvider", {"use_tf32": "0"})])
    images = np.random.default_rng(0).integers(0, 256, (64, *manifest.input.shape), dtype=np.uint8)
    seconds: dict[str, list[float]] = {"ours": [], "raw": []}
    for _ in range(200):
        for name in seconds:
            started = time.perf_counter()
            if name == "ours":
                ours.run(images)
            else:
                raw.run(["logits", "probabilities"], {"image": images})
            seconds[name].append(time.perf_counter() - started)
    ratio = statistics.median(seconds["ours"]) / statistics.median(seconds["raw"])
    assert ratio < 1.1
