"""`tensorflow.serving.ModelService`: the states of versions."""

from __future__ import annotations

import grpc

from convserve.errors import NotFoundError
from convserve.lifecycle import VersionState
from convserve.registry import Registry, VersionStatus
from convserve.server.call import Call
from convserve.server.rpc import Guard, parser
from convserve.server.tensorflow_serving.prediction import API
from convserve.server.tensorflow_serving.request import read_version
from convserve.tensorflow_serving.v1 import model_pb2 as pb

SERVICE = "tensorflow.serving.ModelService"

_STATES = {
    VersionState.LOADING: pb.ModelVersionStatus.LOADING,
    VersionState.WARMING: pb.ModelVersionStatus.LOADING,
    VersionState.AVAILABLE: pb.ModelVersionStatus.AVAILABLE,
    VersionState.DRAINING: pb.ModelVersionStatus.UNLOADING,
    VersionState.UNLOADED: pb.ModelVersionStatus.END,
    VersionState.FAILED: pb.ModelVersionStatus.END,
}
_FAILED = grpc.StatusCode.FAILED_PRECONDITION.value[0]


class ModelStatusServicer:
    """Answers GetModelStatus."""

    def __init__(self, registry: Registry) -> None:
        """Tell of the models in `registry`."""
        self._registry = registry

    def handler(self, guard: Guard) -> grpc.GenericRpcHandler:
        """The service for a synchronous server."""
        return grpc.method_handlers_generic_handler(
            SERVICE,
            {
                "GetModelStatus": grpc.unary_unary_rpc_method_handler(
                    guard.direct(API, "GetModelStatus", self.get_model_status),
                    request_deserializer=parser(pb.GetModelStatusRequest),
                    response_serializer=pb.GetModelStatusResponse.SerializeToString,
                ),
                "HandleReloadConfigRequest": guard.not_offered(
                    API, "HandleReloadConfigRequest", "call convserve.v1's LoadModel, UnloadModel and SetAlias"
                ),
            },
        )

    def get_model_status(self, message: pb.GetModelStatusRequest, call: Call) -> pb.GetModelStatusResponse:
        """Tell the state of one version or of all.

        Raises:
            NotFoundError: there is no such model, version or label.
        """
        number, alias = read_version(message.model_spec)
        name = message.model_spec.name
        models = self._registry.models()
        if name not in models:
            raise NotFoundError(f"model {name!r} does not exist; the models here are: {', '.join(models) or 'none'}")
        call.model = name
        if alias:
            number = self._registry.routes(name).aliases.get(alias)
            if number is None:
                raise NotFoundError(f"model {name!r} has no alias {alias!r}")
        versions = models[name]
        if number is not None and number not in versions:
            known = ", ".join(map(str, sorted(versions))) or "none"
            raise NotFoundError(f"model {name!r} has no version {number}; its versions are: {known}")
        wanted = sorted(versions, reverse=True) if number is None else [number]
        return pb.GetModelStatusResponse(model_version_status=[_status(one, versions[one]) for one in wanted])


def _status(version: int, status: VersionStatus) -> pb.ModelVersionStatus:
    failed = status.state is VersionState.FAILED
    return pb.ModelVersionStatus(
        version=version,
        state=_STATES[status.state],
        status=pb.StatusProto(error_code=_FAILED if failed else 0, error_message=status.reason),
    )
