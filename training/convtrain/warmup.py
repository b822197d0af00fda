"""The requests with which TensorFlow Serving warms a version up before it serves it.

It looks for them in the version directory, runs them when it loads the version, and takes at most 1,000. Source:
TensorFlow Serving's guide to SavedModel warm-up.
"""

from __future__ import annotations

from pathlib import Path

from convserve.arrays import Images
from convserve.manifest import INPUT_NAME
from convserve.tensorflow_core.v1 import tensor_pb2
from convserve.tensorflow_serving.v1 import model_pb2, prediction_log_pb2, prediction_pb2
from convtrain import files, tfrecord

WARMUP_FILE = "assets.extra/tf_serving_warmup_requests"
SIGNATURE = "serving_default"


def write(directory: Path, model: str, images: Images) -> None:
    """Write requests of both kinds that a server meets: the first image alone, and all of them in one batch.

    Args:
        directory: the version's.
        model: its model's name.
        images: real images, uint8 [N, H, W, C].
    """
    logs = [_log(model, batch).SerializeToString(deterministic=True) for batch in (images[:1], images)]
    files.write_bytes(directory / WARMUP_FILE, tfrecord.encode(logs))


def _log(model: str, images: Images) -> prediction_log_pb2.PredictionLog:
    """Make a call of Predict; without a version, or the requests would be of one version alone."""
    tensor = tensor_pb2.TensorProto(
        dtype=tensor_pb2.DT_UINT8,
        tensor_shape=tensor_pb2.TensorShapeProto(
            dim=[tensor_pb2.TensorShapeProto.Dim(size=size) for size in images.shape]
        ),
        tensor_content=images.tobytes(),
    )
    request = prediction_pb2.PredictRequest(
        model_spec=model_pb2.ModelSpec(name=model, signature_name=SIGNATURE), inputs={INPUT_NAME: tensor}
    )
    return prediction_log_pb2.PredictionLog(predict_log=prediction_log_pb2.PredictLog(request=request))
