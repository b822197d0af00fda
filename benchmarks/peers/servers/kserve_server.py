"""KServe's Python server: `kserve_server.py MODEL ONNX_FILE`, followed by KServe's own flags."""

from __future__ import annotations

import sys
from typing import Any

name, file, *rest = sys.argv[1:]
sys.argv[1:] = rest  # KServe reads the flags when it is imported

import onnxruntime as ort
from kserve import InferOutput, InferResponse, Model, ModelServer


class Classifier(Model):
    """What KServe calls."""

    def __init__(self) -> None:
        """Load the model."""
        super().__init__(name)
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = ort.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        self.ready = True

    def predict(self, payload: Any, headers: Any = None, response_headers: Any = None) -> InferResponse:  # noqa: ARG002
        """Answer one request; this server does not batch."""
        (found,) = self._session.run(["probabilities"], {"image": payload.inputs[0].as_numpy()})
        output = InferOutput("probabilities", list(found.shape), "FP32")
        output.set_data_from_numpy(found, binary_data=True)
        return InferResponse(payload.id, name, [output], use_binary_outputs=True)


ModelServer().start([Classifier()])
