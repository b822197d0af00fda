"""TensorFlow Serving's API, without TensorFlow. Messages to values and back.

::

    prediction.py   the methods of PredictionService     status.py   ModelService
    request.py      PredictRequest, ClassificationRequest -> engine.Request
    tensors.py      TensorProto <-> arrays
    signatures.py   what a model takes and gives, in TensorFlow's words
"""

from __future__ import annotations

from convserve.server.tensorflow_serving.prediction import SERVICE as PREDICTION_SERVICE
from convserve.server.tensorflow_serving.prediction import PredictionServicer
from convserve.server.tensorflow_serving.status import SERVICE as MODEL_SERVICE
from convserve.server.tensorflow_serving.status import ModelStatusServicer

__all__ = ["MODEL_SERVICE", "PREDICTION_SERVICE", "ModelStatusServicer", "PredictionServicer"]
