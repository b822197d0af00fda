"""Triton's Python backend: onnxruntime over whatever its dynamic batcher hands over at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import triton_python_backend_utils as backend


class TritonPythonModel:
    """What Triton calls."""

    def initialize(self, args: dict[str, Any]) -> None:
        """Load the model that lies beside this file."""
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        file = Path(args["model_repository"]) / args["model_version"] / "model.onnx"
        self._session = ort.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer requests that Triton has batched; their rows are still apart."""
        images = [backend.get_input_tensor_by_name(request, "image").as_numpy() for request in requests]
        pixels = images[0] if len(images) == 1 else np.concatenate(images)
        (found,) = self._session.run(["probabilities"], {"image": pixels})
        responses, at = [], 0
        for one in images:
            tensor = backend.Tensor("probabilities", found[at : at + len(one)])
            responses.append(backend.InferenceResponse([tensor]))
            at += len(one)
        return responses
