"""`convserve.v1.ModelService`: what the registry knows, as messages."""

from __future__ import annotations

import grpc

from convserve.errors import NotFoundError
from convserve.lifecycle import VersionState
from convserve.registry import Registry, VersionStatus
from convserve.server.rpc import Call, Guard
from convserve.v1 import model_pb2 as pb

SERVICE = "convserve.v1.ModelService"

_STATES = {
    VersionState.LOADING: pb.VERSION_STATE_LOADING,
    VersionState.WARMING: pb.VERSION_STATE_WARMING,
    VersionState.AVAILABLE: pb.VERSION_STATE_AVAILABLE,
    VersionState.DRAINING: pb.VERSION_STATE_DRAINING,
    VersionState.UNLOADED: pb.VERSION_STATE_UNLOADED,
    VersionState.FAILED: pb.VERSION_STATE_FAILED,
}


class ModelServicer:
    """Answers ListModels and GetModel."""

    def __init__(self, registry: Registry) -> None:
        """Tell of the models in `registry`."""
        self._registry = registry

    def handler(self, guard: Guard) -> grpc.GenericRpcHandler:
        """The service for a synchronous server."""
        return grpc.method_handlers_generic_handler(
            SERVICE,
            {
                "ListModels": grpc.unary_unary_rpc_method_handler(
                    guard.direct("convserve.v1", "ListModels", self.list_models),
                    request_deserializer=pb.ListModelsRequest.FromString,
                    response_serializer=pb.ListModelsResponse.SerializeToString,
                ),
                "GetModel": grpc.unary_unary_rpc_method_handler(
                    guard.direct("convserve.v1", "GetModel", self.get_model),
                    request_deserializer=pb.GetModelRequest.FromString,
                    response_serializer=pb.GetModelResponse.SerializeToString,
                ),
            },
        )

    def list_models(self, message: pb.ListModelsRequest, call: Call) -> pb.ListModelsResponse:  # noqa: ARG002
        """Tell of every model."""
        models = self._registry.models()
        return pb.ListModelsResponse(models=[self._model(name, versions) for name, versions in models.items()])

    def get_model(self, message: pb.GetModelRequest, call: Call) -> pb.GetModelResponse:
        """Tell of one model."""
        models = self._registry.models()
        if message.name not in models:
            raise NotFoundError(
                f"model {message.name!r} does not exist; the models here are: {', '.join(models) or 'none'}"
            )
        call.model = message.name
        return pb.GetModelResponse(model=self._model(message.name, models[message.name]))

    def _model(self, name: str, versions: dict[int, VersionStatus]) -> pb.Model:
        return pb.Model(
            name=name,
            versions=[_version(number, status) for number, status in sorted(versions.items(), reverse=True)],
            default_version=self._registry.default_version(name),
        )


def _version(number: int, status: VersionStatus) -> pb.ModelVersion:
    message = pb.ModelVersion(version=number, state=_STATES[status.state], reason=status.reason, digest=status.digest)
    if status.state is VersionState.AVAILABLE:
        message.provider = status.provider
        message.max_batch_size = status.max_batch_size
    if status.manifest is not None:
        message.input_shape.extend(status.manifest.input.shape)
        message.labels.extend(status.manifest.labels)
        message.metrics.update(status.manifest.metrics)
        message.dataset = status.manifest.dataset.name
        message.preset = status.manifest.training.preset
    return message
