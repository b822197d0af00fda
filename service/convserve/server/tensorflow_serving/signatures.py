"""Signatures: the ways to call a model, in TensorFlow's words.

A signature says what the input means, so it is what chooses the range of pixels:

- `serving_default` takes pixels 0..255 of any type of number, or image files (DT_STRING);
- `unit_range` takes floating-point pixels 0..1;
- `encoded_images` takes image files;
- `classify` is for Classify, which takes tf.Example with `image/encoded`.
"""

from __future__ import annotations

from collections.abc import Sequence

from convserve.errors import InvalidRequestError
from convserve.manifest import INPUT_NAME, LOGITS_NAME, PROBABILITIES_NAME, Manifest
from convserve.server.tensorflow_serving.tensors import shape_of
from convserve.tensorflow_core.v1 import signature_pb2, tensor_pb2
from convserve.tensorflow_serving.v1 import prediction_pb2 as pb

DEFAULT = "serving_default"
UNIT_RANGE = "unit_range"
ENCODED = "encoded_images"
CLASSIFY = "classify"
PREDICT_SIGNATURES = (DEFAULT, UNIT_RANGE, ENCODED)
CLASSIFY_SIGNATURES = (DEFAULT, CLASSIFY)
OUTPUTS = (PROBABILITIES_NAME, LOGITS_NAME)

_PREDICT_METHOD = "tensorflow/serving/predict"
_CLASSIFY_METHOD = "tensorflow/serving/classify"


def choose(name: str, offered: tuple[str, ...]) -> str:
    """The signature a request names; the default one for an empty name.

    Raises:
        InvalidRequestError: the method has no such signature.
    """
    if name and name not in offered:
        raise InvalidRequestError.of(
            "model_spec.signature_name", f"{name!r} came; this method's signatures are {', '.join(offered)}"
        )
    return name or DEFAULT


def signature_map(manifest: Manifest) -> pb.SignatureDefMap:
    """All signatures of a version."""
    pixels, classes = [-1, *manifest.input.shape], [-1, len(manifest.labels)]
    outputs = {name: _info(f"{name}:0", tensor_pb2.DT_FLOAT, classes) for name in OUTPUTS}
    inputs = {
        DEFAULT: _info(f"{DEFAULT}_{INPUT_NAME}:0", tensor_pb2.DT_UINT8, pixels),
        UNIT_RANGE: _info(f"{UNIT_RANGE}_{INPUT_NAME}:0", tensor_pb2.DT_FLOAT, pixels),
        ENCODED: _info(f"{ENCODED}_{INPUT_NAME}:0", tensor_pb2.DT_STRING, [-1]),
    }
    definitions = {
        name: signature_pb2.SignatureDef(inputs={INPUT_NAME: tensor}, outputs=outputs, method_name=_PREDICT_METHOD)
        for name, tensor in inputs.items()
    }
    definitions[CLASSIFY] = signature_pb2.SignatureDef(
        inputs={"inputs": _info("examples:0", tensor_pb2.DT_STRING, [-1])},
        outputs={
            "classes": _info("classes:0", tensor_pb2.DT_STRING, classes),
            "scores": _info("scores:0", tensor_pb2.DT_FLOAT, classes),
        },
        method_name=_CLASSIFY_METHOD,
    )
    return pb.SignatureDefMap(signature_def=definitions)


def _info(name: str, dtype: tensor_pb2.DataType.ValueType, shape: Sequence[int]) -> signature_pb2.TensorInfo:
    return signature_pb2.TensorInfo(name=name, dtype=dtype, tensor_shape=shape_of(shape))
