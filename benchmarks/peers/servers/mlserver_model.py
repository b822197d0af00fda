"""MLServer's runtime: onnxruntime over the requests that its adaptive batching joined, or over one."""

from __future__ import annotations

import onnxruntime as ort
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse


class Classifier(MLModel):
    """What MLServer calls."""

    async def load(self) -> bool:
        """Load the model that the settings name."""
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = ort.InferenceSession(self.settings.parameters.uri, options, providers=["CPUExecutionProvider"])
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Answer a request."""
        images = NumpyCodec.decode_input(payload.inputs[0])
        (found,) = self._session.run(["probabilities"], {"image": images})
        return InferenceResponse(model_name=self.name, outputs=[NumpyCodec.encode_output("probabilities", found)])
