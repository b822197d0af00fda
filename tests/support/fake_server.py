"""A server that answers what a test tells it to, on a free port of this process."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, NoReturn

import grpc
import numpy as np

from convserve.v1 import classification_pb2 as pb
from convserve.v1 import classification_pb2_grpc, error_details_pb2, model_pb2, model_pb2_grpc

Answer = Callable[[pb.ClassifyRequest, Any], pb.ClassifyResponse]


class FakeServer(classification_pb2_grpc.ClassificationServiceServicer, model_pb2_grpc.ModelServiceServicer):
    """Classifies each image as the value of its first byte; keeps every request it gets."""

    target: str

    def __init__(self) -> None:
        """Answer at once."""
        self.requests: list[pb.ClassifyRequest] = []
        self.metadata: list[dict[str, Any]] = []
        self.models: list[model_pb2.Model] = []
        self.health = b"\x08\x01"
        self.before: Callable[[pb.ClassifyRequest, Any], None] = lambda request, context: None
        """Called before each answer; may refuse or wait."""
        self._lock = threading.Lock()

    def Classify(self, request: pb.ClassifyRequest, context: Any) -> pb.ClassifyResponse:  # noqa: N802
        """Answer one request."""
        with self._lock:
            self.requests.append(request)
            self.metadata.append(dict(context.invocation_metadata()))
        self.before(request, context)
        values = first_bytes(request)
        reply = pb.ClassifyResponse(model=request.model, model_version=4, request_id=self.metadata[-1]["x-request-id"])
        for value in values:
            predictions = [
                pb.Prediction(label=f"class {value + rank}", index=value + rank, probability=1 / 2 ** (rank + 1))
                for rank in range(max(request.top_k, 1))
            ]
            reply.results.append(pb.ImageResult(predictions=predictions, decoding=["resized 9x9 to 1x1"]))
        if request.explain:
            for rows in filter(None, (min(len(values), 3), max(len(values) - 3, 0))):
                reply.batches.append(
                    pb.BatchInfo(request_rows=rows, rows=rows + 1, release_reason=pb.RELEASE_REASON_FULL)
                )
        return reply

    def ListModels(self, request: model_pb2.ListModelsRequest, context: Any) -> model_pb2.ListModelsResponse:  # noqa: N802
        """List the models of the test."""
        return model_pb2.ListModelsResponse(models=self.models)

    def GetModel(self, request: model_pb2.GetModelRequest, context: Any) -> model_pb2.GetModelResponse:  # noqa: N802
        """Find one of them."""
        found = {model.name: model for model in self.models}.get(request.name)
        if found is None:
            refuse(context, grpc.StatusCode.NOT_FOUND, f"no model {request.name}")
        return model_pb2.GetModelResponse(model=found)


def first_bytes(request: pb.ClassifyRequest) -> list[int]:
    """The first byte of each image of a request."""
    if request.WhichOneof("input") == "encoded":
        return [image[0] for image in request.encoded.images]
    pixels = np.frombuffer(request.packed.data, np.uint8).reshape(tuple(request.packed.shape))
    return [int(image.ravel()[0]) for image in pixels]


def refuse_images(*bad: int, field: str = "encoded.images") -> Callable[[pb.ClassifyRequest, Any], None]:
    """Refuse, one after the other, images that begin with one of these bytes, as the server does."""

    def before(request: pb.ClassifyRequest, context: Any) -> None:
        for position, value in enumerate(first_bytes(request)):
            if value in bad:
                path, text = f"{field}[{position}]", f"is a damaged {value}"
                details = error_details_pb2.BadRequest(
                    field_violations=[error_details_pb2.BadRequest.FieldViolation(field=path, description=text)]
                )
                refuse(context, grpc.StatusCode.INVALID_ARGUMENT, f"{path}: {text}", "BadRequest", details)

    return before


def refuse(context: Any, code: grpc.StatusCode, text: str, name: str = "", details: Any = None) -> NoReturn:
    """End a call with a status and, where a name is given, one detail of google.rpc."""
    if name:
        status = error_details_pb2.ErrorStatus(code=code.value[0], message=text)
        status.details.add(type_url=f"type.googleapis.com/google.rpc.{name}", value=details.SerializeToString())
        context.set_trailing_metadata((("grpc-status-details-bin", status.SerializeToString()),))
    context.abort(code, text)
    raise AssertionError("abort raises")


@contextmanager
def running(max_message_bytes: int = 64 * 2**20) -> Iterator[FakeServer]:
    """Run a fake server until the block ends."""
    fake = FakeServer()  # type: ignore[abstract]  # the generated class answers UNIMPLEMENTED to the other methods
    with ThreadPoolExecutor(16) as pool:
        server = grpc.server(pool, options=[("grpc.max_receive_message_length", max_message_bytes)])
        classification_pb2_grpc.add_ClassificationServiceServicer_to_server(fake, server)
        model_pb2_grpc.add_ModelServiceServicer_to_server(fake, server)
        check: grpc.RpcMethodHandler[bytes, bytes] = grpc.unary_unary_rpc_method_handler(
            lambda request, context: fake.health
        )
        server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler("grpc.health.v1.Health", {"Check": check}),)
        )
        fake.target = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
        server.start()
        try:
            yield fake
        finally:
            server.stop(grace=None).wait()
