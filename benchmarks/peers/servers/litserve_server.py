"""LitServe: `litserve_server.py ONNX_FILE PORT`; onnxruntime over the requests that it batched."""

from __future__ import annotations

import sys
from typing import Any

import litserve
import numpy as np
import onnxruntime as ort


class Classifier(litserve.LitAPI):
    """What LitServe calls."""

    def setup(self, device: str) -> None:  # noqa: ARG002
        """Load the model."""
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = ort.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])

    def decode_request(self, request):  # an annotation would tell LitServe where to look for the request
        """Images of one request."""
        return np.array(request["images"], np.uint8)

    def batch(self, inputs: list[np.ndarray]) -> tuple[np.ndarray, list[int]]:
        """Join requests, which may hold several images each."""
        return np.concatenate(inputs), [len(one) for one in inputs]

    def predict(self, x: tuple[np.ndarray, list[int]]) -> tuple[np.ndarray, list[int]]:
        """Answer a batch."""
        images, counts = x
        return self._session.run(["probabilities"], {"image": images})[0], counts

    def unbatch(self, output: tuple[np.ndarray, list[int]]) -> list[np.ndarray]:
        """Give each request its rows."""
        found, counts = output
        return np.split(found, np.cumsum(counts)[:-1])

    def encode_response(self, output: np.ndarray) -> dict[str, Any]:
        """Rows as numbers."""
        return {"probabilities": output.tolist()}


if __name__ == "__main__":
    server = litserve.LitServer(Classifier(max_batch_size=64, batch_timeout=0.001), accelerator="cpu")
    server.run(host="127.0.0.1", port=int(sys.argv[2]), log_level="error", generate_client_file=False)
