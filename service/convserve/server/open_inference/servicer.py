"""`inference.GRPCInferenceService`: the methods, each a few lines."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import grpc
from google.protobuf.message import Message

import convserve
from convserve.engine import Engine, Result
from convserve.errors import ConvserveError, InvalidRequestError
from convserve.open_inference.v2 import infer_pb2
from convserve.open_inference.v2 import management_pb2 as pb
from convserve.registry import LoadedVersion, Registry
from convserve.server.access import Group
from convserve.server.call import Call
from convserve.server.choice import version_or_alias
from convserve.server.models import Admin
from convserve.server.open_inference import describe, reply, request
from convserve.server.open_inference.repository import Repository
from convserve.server.open_inference.statistics import statistics
from convserve.server.rpc import Cancel, Guard, Reply, Unary, parser, replying
from convserve.server.shared_totals import ReadTotals
from convserve.server.streams import streaming
from convserve.statistics import Totals

SERVICE = "inference.GRPCInferenceService"
API = "open_inference"

_FINAL = "triton_final_response"
"""Marks the last reply to a request of a stream, for clients that know models with many."""

_EXTENSIONS = ("classification", "schedule_policy", "model_configuration", "statistics", "parameters")
_NOT_OFFERED = {
    "shared memory is not offered; send tensors in the message": (
        *("SystemSharedMemoryStatus", "SystemSharedMemoryRegister", "SystemSharedMemoryUnregister"),
        *("CudaSharedMemoryStatus", "CudaSharedMemoryRegister", "CudaSharedMemoryUnregister"),
    ),
    "traces are not set here; the request parameter `explain` tells how a request was batched": ("TraceSetting",),
    "logs are set when the server starts: log_level and log_format": ("LogSettings",),
}


class OpenInferenceServicer:
    """Answers Triton's and KServe's clients."""

    def __init__(
        self,
        engine: Engine,
        registry: Registry,
        admin: Admin | None,
        ready: Callable[[], bool],
        read_totals: ReadTotals,
    ) -> None:
        """Put the parts together.

        Args:
            engine: classifies.
            registry: tells of the models.
            admin: changes them; None when that is not enabled.
            ready: whether requests should come.
            read_totals: tells where the time of requests went.
        """
        self._engine = engine
        self._registry = registry
        self._repository = Repository(registry, admin)
        self._ready = ready
        self._read_totals = read_totals

    def handler(self, guard: Guard) -> grpc.GenericRpcHandler:
        """The service for a synchronous server."""
        methods: list[tuple[str, Group, Callable[[Any, Call], Message], type[Message]]] = [
            (
                "ServerLive",
                Group.HEALTH,
                lambda _message, _call: pb.ServerLiveResponse(live=True),
                pb.ServerLiveRequest,
            ),
            ("ServerReady", Group.HEALTH, self.server_ready, pb.ServerReadyRequest),
            ("ModelReady", Group.HEALTH, self.model_ready, pb.ModelReadyRequest),
            ("ServerMetadata", Group.METADATA, self.server_metadata, pb.ServerMetadataRequest),
            ("ModelMetadata", Group.METADATA, self.model_metadata, pb.ModelMetadataRequest),
            ("ModelConfig", Group.METADATA, self.model_config, pb.ModelConfigRequest),
            ("ModelStatistics", Group.METADATA, self.model_statistics, pb.ModelStatisticsRequest),
            ("RepositoryIndex", Group.METADATA, self._repository.index, pb.RepositoryIndexRequest),
            ("RepositoryModelLoad", Group.ADMIN, self._repository.load, pb.RepositoryModelLoadRequest),
            ("RepositoryModelUnload", Group.ADMIN, self._repository.unload, pb.RepositoryModelUnloadRequest),
        ]
        handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
            name: grpc.unary_unary_rpc_method_handler(
                guard.direct(API, name, method, group),
                request_deserializer=parser(message),
                response_serializer=_serialize,
            )
            for name, group, method, message in methods
        }
        handlers.update({one.name: guard.waiting(one) for one in self.hot()})
        handlers["ModelStreamInfer"] = grpc.stream_stream_rpc_method_handler(
            streaming(guard, API, "ModelStreamInfer", self.model_stream_infer, _refusal),
            request_deserializer=parser(infer_pb2.ModelInferRequest),
        )
        for sentence, names in _NOT_OFFERED.items():
            handlers.update({name: guard.not_offered(API, name, sentence) for name in names})
        return grpc.method_handlers_generic_handler(SERVICE, handlers)

    def hot(self) -> list[Unary[Any]]:
        """The methods that a fast lane may take over."""
        return [
            Unary(
                SERVICE,
                "ModelInfer",
                API,
                infer_pb2.ModelInferRequest,
                self.model_infer,
                model_of=lambda message: message.model_name,
                decodes=request.holds_files,
            )
        ]

    def model_infer(self, message: infer_pb2.ModelInferRequest, call: Call, answer: Reply) -> Cancel:
        """Start a classification; returns what cancels it."""
        wanted, request_id = self._wanted(message, call), message.id

        def write(result: Result) -> bytes:
            return reply.write(result, wanted, request_id)

        return self._engine.submit(request.read(message, call), replying(answer, write), call.turns).cancel

    def model_stream_infer(self, message: infer_pb2.ModelInferRequest, call: Call, answer: Reply) -> Cancel:
        """Start the classification of one request of a stream."""
        wanted, request_id = self._wanted(message, call), message.id

        def write(result: Result) -> bytes:
            response = infer_pb2.ModelInferResponse.FromString(reply.write(result, wanted, request_id))
            response.parameters[_FINAL].bool_param = True
            return infer_pb2.ModelStreamInferResponse(infer_response=response).SerializeToString()

        return self._engine.submit(request.read(message, call), replying(answer, write), call.turns).cancel

    def _wanted(self, message: infer_pb2.ModelInferRequest, call: Call) -> reply.Wanted:
        """Note the model, and tell what the request wants."""
        if self._registry.has_model(message.model_name):
            call.model = message.model_name
        return reply.wanted(message)

    def server_live(self, message: pb.ServerLiveRequest, call: Call) -> pb.ServerLiveResponse:  # noqa: ARG002
        """Tell that the process lives."""
        return pb.ServerLiveResponse(live=True)

    def server_ready(self, message: pb.ServerReadyRequest, call: Call) -> pb.ServerReadyResponse:  # noqa: ARG002
        """Tell whether requests should come."""
        return pb.ServerReadyResponse(ready=self._ready())

    def model_ready(self, message: pb.ModelReadyRequest, call: Call) -> pb.ModelReadyResponse:
        """Tell whether a model answers; while no traffic should come, none does.

        One that does not exist is not ready: a probe wants no error.
        """
        if not message.name:
            raise InvalidRequestError.of("name", "is empty; name the model")
        try:
            with self._version(message.name, message.version, call):
                return pb.ModelReadyResponse(ready=self._ready())
        except ConvserveError:
            return pb.ModelReadyResponse(ready=False)

    def server_metadata(self, message: pb.ServerMetadataRequest, call: Call) -> pb.ServerMetadataResponse:  # noqa: ARG002
        """Tell what the server is."""
        extensions = [*_EXTENSIONS, *(["model_repository"] if self._repository.changeable else [])]
        return pb.ServerMetadataResponse(name="convserve", version=convserve.__version__, extensions=extensions)

    def model_metadata(self, message: pb.ModelMetadataRequest, call: Call) -> pb.ModelMetadataResponse:
        """Tell what a model takes and gives."""
        with self._version(message.name, message.version, call) as version:
            return describe.metadata(version, [one.manifest.version for one in self._loaded(message.name)])

    def model_config(self, message: pb.ModelConfigRequest, call: Call) -> pb.ModelConfigResponse:
        """Tell how a model is batched."""
        with self._version(message.name, message.version, call) as version:
            return pb.ModelConfigResponse(config=describe.config(version))

    def model_statistics(self, message: pb.ModelStatisticsRequest, call: Call) -> pb.ModelStatisticsResponse:
        """Tell where the time went: of one version, of a model's, or of all."""
        if not message.name:
            if message.version:
                raise InvalidRequestError.of("version", "came without a name; name the model")
            versions = self._registry.loaded()
        else:
            with self._version(message.name, message.version, call) as version:
                versions = [version] if message.version else self._loaded(message.name)
        totals = self._read_totals()
        keys = [(version.manifest.model, version.manifest.version) for version in versions]
        return pb.ModelStatisticsResponse(model_stats=[statistics(key, totals.get(key, Totals())) for key in keys])

    def _loaded(self, name: str) -> list[LoadedVersion]:
        return [version for version in self._registry.loaded() if version.manifest.model == name]

    @contextmanager
    def _version(self, name: str, text: str, call: Call) -> Iterator[LoadedVersion]:
        """Borrow the version that a request names."""
        if self._registry.has_model(name):
            call.model = name
        version = self._registry.borrow(name, *version_or_alias(text, "version"), request_id=call.request_id)
        try:
            yield version
        finally:
            version.release()


def _refusal(message: infer_pb2.ModelInferRequest, sentence: str) -> bytes:
    """The reply to a request of a stream that failed."""
    failed = infer_pb2.ModelInferResponse(id=getattr(message, "id", ""))
    failed.parameters[_FINAL].bool_param = True
    return infer_pb2.ModelStreamInferResponse(error_message=sentence, infer_response=failed).SerializeToString()


def _serialize(message: Message) -> bytes:
    return message.SerializeToString()
