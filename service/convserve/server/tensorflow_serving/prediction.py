"""`tensorflow.serving.PredictionService`: the methods, each a few lines."""

from __future__ import annotations

from typing import Any

import grpc
from google.protobuf import any_pb2, wrappers_pb2

from convserve.arrays import best
from convserve.engine import Engine, Result
from convserve.errors import InvalidRequestError
from convserve.manifest import LOGITS_NAME, Manifest
from convserve.registry import Registry
from convserve.server.call import Call
from convserve.server.reflection import public_name_of
from convserve.server.rpc import Cancel, Guard, Reply, Unary, parser, replying
from convserve.server.tensorflow_serving import request, signatures, tensors
from convserve.tensorflow_serving.v1 import model_pb2
from convserve.tensorflow_serving.v1 import prediction_pb2 as pb

SERVICE = "tensorflow.serving.PredictionService"
API = "tensorflow_serving"

_SIGNATURE_DEF = "signature_def"
_TYPE_URL = "type.googleapis.com/"


class PredictionServicer:
    """Answers Predict, Classify and GetModelMetadata."""

    def __init__(self, engine: Engine, registry: Registry) -> None:
        """Classify with `engine`; `registry` tells which models exist."""
        self._engine = engine
        self._registry = registry

    def handler(self, guard: Guard) -> grpc.GenericRpcHandler:
        """The service for a synchronous server."""
        return grpc.method_handlers_generic_handler(
            SERVICE,
            {
                **{one.name: guard.waiting(one) for one in self.hot()},
                "GetModelMetadata": grpc.unary_unary_rpc_method_handler(
                    guard.direct(API, "GetModelMetadata", self.get_model_metadata),
                    request_deserializer=parser(pb.GetModelMetadataRequest),
                    response_serializer=pb.GetModelMetadataResponse.SerializeToString,
                ),
                "Regress": guard.not_offered(API, "Regress", "the models here classify; call Predict or Classify"),
                "MultiInference": guard.not_offered(
                    API, "MultiInference", "call Predict or Classify for each model; calls can run side by side"
                ),
            },
        )

    def hot(self) -> list[Unary[Any]]:
        """The methods that a fast lane may take over."""
        return [
            Unary(
                SERVICE,
                "Predict",
                API,
                pb.PredictRequest,
                self.predict,
                model_of=lambda message: message.model_spec.name,
                decodes=request.holds_files,
            ),
            Unary(
                SERVICE,
                "Classify",
                API,
                pb.ClassificationRequest,
                self.classify,
                model_of=lambda message: message.model_spec.name,
                decodes=lambda _: True,
            ),
        ]

    def predict(self, message: pb.PredictRequest, call: Call, answer: Reply) -> Cancel:
        """Start a classification of a tensor; returns what cancels it."""
        self._note_model(message.model_spec, call)
        names = _wanted_outputs(message)

        def write(result: Result) -> bytes:
            outputs = result.outputs
            response = pb.PredictResponse(
                outputs={
                    name: tensors.write_numbers(outputs.logits if name == LOGITS_NAME else outputs.probabilities)
                    for name in names
                },
                model_spec=_spec(result.version.manifest, message.model_spec.signature_name),
            )
            return response.SerializeToString()

        return self._engine.submit(request.read_predict(message, call), replying(answer, write), call.turns).cancel

    def classify(self, message: pb.ClassificationRequest, call: Call, answer: Reply) -> Cancel:
        """Start a classification of examples; returns what cancels it."""
        self._note_model(message.model_spec, call)

        def write(result: Result) -> bytes:
            response = pb.ClassificationResponse(
                result=_classifications(result),
                model_spec=_spec(result.version.manifest, message.model_spec.signature_name),
            )
            return response.SerializeToString()

        return self._engine.submit(request.read_classify(message, call), replying(answer, write), call.turns).cancel

    def get_model_metadata(self, message: pb.GetModelMetadataRequest, call: Call) -> pb.GetModelMetadataResponse:
        """Tell what a model takes and gives."""
        self._note_model(message.model_spec, call)
        if message.metadata_field[:2] != [_SIGNATURE_DEF]:
            raise InvalidRequestError.of(
                "metadata_field", f"{message.metadata_field[:4]} came; ask for {_SIGNATURE_DEF!r} alone"
            )
        number, alias = request.read_version(message.model_spec)
        version = self._registry.borrow(message.model_spec.name, number, alias, call.request_id)
        try:
            packed = any_pb2.Any(
                type_url=_TYPE_URL + public_name_of(pb.SignatureDefMap),
                value=signatures.signature_map(version.manifest).SerializeToString(),
            )
            spec = _spec(version.manifest, "")
            spec.ClearField("signature_name")
            return pb.GetModelMetadataResponse(model_spec=spec, metadata={_SIGNATURE_DEF: packed})
        finally:
            version.release()

    def _note_model(self, spec: model_pb2.ModelSpec, call: Call) -> None:
        if self._registry.has_model(spec.name):
            call.model = spec.name


def _wanted_outputs(message: pb.PredictRequest) -> list[str]:
    """Names of the outputs to send.

    Raises:
        InvalidRequestError: one is unknown, or named twice.
    """
    for index, name in enumerate(message.output_filter):
        if name not in signatures.OUTPUTS or name in message.output_filter[:index]:
            raise InvalidRequestError.of(
                f"output_filter[{index}]",
                f"{name!r} came; the outputs are {' and '.join(signatures.OUTPUTS)}, once each",
            )
    return list(message.output_filter) or list(signatures.OUTPUTS)


def _classifications(result: Result) -> pb.ClassificationResult:
    """All classes of each image, most probable first."""
    labels = result.version.manifest.labels
    classes, scores = best(result.outputs.probabilities, len(labels))
    return pb.ClassificationResult(
        classifications=[
            pb.Classifications(
                classes=[pb.Class(label=labels[index], score=score) for index, score in zip(indices, row, strict=True)]
            )
            for indices, row in zip(classes, scores, strict=True)
        ]
    )


def _spec(manifest: Manifest, signature_name: str) -> model_pb2.ModelSpec:
    """What answered."""
    return model_pb2.ModelSpec(
        name=manifest.model,
        version=wrappers_pb2.Int64Value(value=manifest.version),
        signature_name=signature_name or signatures.DEFAULT,
    )
