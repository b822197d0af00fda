"""BentoML's service: onnxruntime over the images that its adaptive batching joined."""

from __future__ import annotations

import os

import bentoml
import numpy as np
import onnxruntime as ort


@bentoml.service(workers=1, metrics={"enabled": False}, logging={"access": {"enabled": False}})
class Classifier:
    """What BentoML calls."""

    def __init__(self) -> None:
        """Load the model that the environment names."""
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = ort.InferenceSession(os.environ["MODEL"], options, providers=["CPUExecutionProvider"])

    @bentoml.api(batchable=True, max_batch_size=64, max_latency_ms=10_000)
    def classify(self, images: np.ndarray) -> np.ndarray:
        """Answer requests, joined in their first dimension."""
        (found,) = self._session.run(["probabilities"], {"image": images.astype(np.uint8)})
        probabilities: np.ndarray = found
        return probabilities
