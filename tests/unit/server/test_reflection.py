"""The pool that reflection reads from."""

from __future__ import annotations

from typing import Any

from convserve.open_inference.v2 import infer_pb2, service_pb2
from convserve.server.reflection import public_name_of, public_pool
from convserve.tensorflow_core.v1 import tensor_pb2
from convserve.tensorflow_serving.v1 import model_pb2, prediction_pb2

POOL = public_pool([service_pb2.DESCRIPTOR, prediction_pb2.DESCRIPTOR, model_pb2.DESCRIPTOR])


def test_services_have_their_public_names() -> None:
    """And methods lead to messages of the public packages."""
    service = POOL.FindServiceByName("inference.GRPCInferenceService")
    assert service.methods_by_name["ModelInfer"].input_type.full_name == "inference.ModelInferRequest"
    assert service.methods_by_name["ModelStreamInfer"].client_streaming
    assert POOL.FindServiceByName("tensorflow.serving.PredictionService")
    assert POOL.FindServiceByName("tensorflow.serving.ModelService")


def test_types_of_fields_have_their_public_names() -> None:
    """Through maps, nested messages, enums, and from package to package."""
    request: Any = POOL.FindMessageTypeByName("tensorflow.serving.PredictRequest")
    entry = request.fields_by_name["inputs"].message_type
    tensor = entry.fields_by_name["value"].message_type
    assert tensor.full_name == "tensorflow.TensorProto"
    assert tensor.fields_by_name["dtype"].enum_type.full_name == "tensorflow.DataType"
    response: Any = POOL.FindMessageTypeByName("inference.ModelInferResponse")
    assert response.fields_by_name["outputs"].message_type.full_name == "inference.ModelInferResponse.InferOutputTensor"


def test_nothing_of_ours_shows() -> None:
    """A file served by reflection never names a package that callers do not know."""
    for name in ("inference.ModelInferRequest", "tensorflow.serving.PredictRequest", "tensorflow.TensorProto"):
        file = POOL.FindFileContainingSymbol(name)
        assert b".convserve." not in file.serialized_pb


def test_public_names() -> None:
    """For type URLs."""
    assert public_name_of(tensor_pb2.TensorProto) == "tensorflow.TensorProto"
    assert (
        public_name_of(infer_pb2.ModelInferRequest.InferInputTensor) == "inference.ModelInferRequest.InferInputTensor"
    )
    assert public_name_of(prediction_pb2.SignatureDefMap) == "tensorflow.serving.SignatureDefMap"
