"""`convserve.v1.ModelService`: what the registry knows, as messages."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import grpc
from google.protobuf.message import Message

from convserve.errors import InvalidRequestError, NotFoundError, PermissionDeniedError
from convserve.lifecycle import VersionState
from convserve.registry import Registry, VersionStatus
from convserve.server.access import Group
from convserve.server.call import Call
from convserve.server.rpc import Guard, parser
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


class Admin(Protocol):
    """Whoever changes which versions are served."""

    def load(self, model: str, version: int) -> int:
        """Load a version; 0: the highest. Returns which one it was."""

    def unload(self, model: str, version: int) -> tuple[list[int], int]:
        """Unload a version; 0: all. Returns the versions, and how many accepted requests were refused."""

    def set_alias(self, model: str, alias: str, version: int) -> dict[str, int]:
        """Point an alias at a version; 0 removes it. Returns all aliases."""


class ModelServicer:
    """Answers ListModels and GetModel, and the admin methods when they are enabled."""

    def __init__(self, registry: Registry, admin: Admin | None) -> None:
        """Tell of the models in `registry`; `admin` changes them, None when that is not enabled."""
        self._registry = registry
        self._admin = admin

    def handler(self, guard: Guard) -> grpc.GenericRpcHandler:
        """The service for a synchronous server."""
        methods: list[tuple[str, Group, Callable[[Any, Call], Message], type[Message]]] = [
            ("ListModels", Group.METADATA, self.list_models, pb.ListModelsRequest),
            ("GetModel", Group.METADATA, self.get_model, pb.GetModelRequest),
            ("LoadModel", Group.ADMIN, self.load_model, pb.LoadModelRequest),
            ("UnloadModel", Group.ADMIN, self.unload_model, pb.UnloadModelRequest),
            ("SetAlias", Group.ADMIN, self.set_alias, pb.SetAliasRequest),
        ]
        return grpc.method_handlers_generic_handler(
            SERVICE,
            {
                name: grpc.unary_unary_rpc_method_handler(
                    guard.direct("convserve.v1", name, method, group),
                    request_deserializer=parser(request),
                    response_serializer=_serialize,
                )
                for name, group, method, request in methods
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

    def load_model(self, message: pb.LoadModelRequest, call: Call) -> pb.LoadModelResponse:
        """Prove a version and make it available."""
        version = self._changeable(message.name, message.version, call).load(message.name, message.version)
        return pb.LoadModelResponse(version=_version(version, self._registry.models()[message.name][version]))

    def unload_model(self, message: pb.UnloadModelRequest, call: Call) -> pb.UnloadModelResponse:
        """Finish and free a version."""
        admin = self._changeable(message.name, message.version, call)
        versions, refused = admin.unload(message.name, message.version)
        return pb.UnloadModelResponse(versions=versions, requests_refused=refused)

    def set_alias(self, message: pb.SetAliasRequest, call: Call) -> pb.SetAliasResponse:
        """Point an alias at a version, or remove it."""
        admin = self._changeable(message.name, message.version, call)
        return pb.SetAliasResponse(aliases=admin.set_alias(message.name, message.alias, message.version))

    def _changeable(self, name: str, version: int, call: Call) -> Admin:
        """Who carries out an admin method.

        Raises:
            PermissionDeniedError: admin methods are not enabled.
            InvalidRequestError: the name is empty or the version negative.
        """
        if self._admin is None:
            raise PermissionDeniedError(
                "admin methods are not answered here; the settings are admin_port and admin_methods"
            )
        if not name:
            raise InvalidRequestError.of("name", "is empty; name the model")
        if version < 0:
            raise InvalidRequestError.of("version", f"{version} came; versions are 1 or higher")
        if self._registry.has_model(name):
            call.model = name
        return self._admin

    def _model(self, name: str, versions: dict[int, VersionStatus]) -> pb.Model:
        return pb.Model(
            name=name,
            versions=[_version(number, status) for number, status in sorted(versions.items(), reverse=True)],
            default_version=self._registry.default_version(name),
            aliases=dict(self._registry.routes(name).aliases),
        )


def _serialize(message: Message) -> bytes:
    return message.SerializeToString()


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
