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
        self._health_changed = threading.Condition()

    def say(self, health: bytes) -> None:
        """Tell those who watch the health that it has changed."""
        with self._health_changed:
            self.health = health
            self._health_changed.notify_all()

    def check(self, request: bytes, context: Any) -> bytes:
        """`grpc.health.v1.Health/Check`."""
        return self.health

    def watch(self, request: bytes, context: Any) -> Iterator[bytes]:
        """`grpc.health.v1.Health/Watch`: the health now and whenever it changes. Holds a thread."""

        def wake() -> None:
            with self._health_changed:
                self._health_changed.notify_all()

        if context.add_callback(wake):
            told = None
            while context.is_active():
                with self._health_changed:
                    while told == self.health and context.is_active():
                        self._health_changed.wait()
                    told = self.health
                yield told

    def Classify(self, request: pb.ClassifyRequest, context: Any) -> pb.ClassifyResponse:  # noqa: N802
        """Answer one request."""
        with self._lock:
            self.requests.append(request)
            self.metadata.append(dict(context.invocation_metadata()))
        self.before(request, context)
        values = first_bytes(request)
        reply = pb.ClassifyResponse(
            model=request.model, model_version=4, request_id=self.metadata[-1].get("x-request-id", "")
        )
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


class Gate:
    """Holds calls whose first image begins with one byte until the test opens it or their caller has gone."""

    def __init__(self, value: int) -> None:
        """Hold calls that begin with `value`."""
        self._value = value
        self._arrived = threading.Semaphore(0)
        self._open = threading.Event()

    def __call__(self, request: pb.ClassifyRequest, context: Any) -> None:
        """Stand in for `FakeServer.before`."""
        if first_bytes(request)[0] == self._value:
            gone = not context.add_callback(self._open.set)
            self._arrived.release()
            assert gone or self._open.wait(30)

    def await_arrival(self) -> None:
        """Return when a call is held."""
        assert self._arrived.acquire(timeout=30)

    def open(self) -> None:
        """Let them go on."""
        self._open.set()


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
def running(
    max_message_bytes: int = 64 * 2**20,
    threads: int = 64,
    credentials: grpc.ServerCredentials | None = None,
    port: int = 0,
) -> Iterator[FakeServer]:
    """Run a fake server until the block ends, with TLS if there are credentials."""
    fake = FakeServer()  # type: ignore[abstract]  # the generated class answers UNIMPLEMENTED to the other methods
    with ThreadPoolExecutor(threads) as pool:
        server = grpc.server(pool, options=[("grpc.max_receive_message_length", max_message_bytes)])
        classification_pb2_grpc.add_ClassificationServiceServicer_to_server(fake, server)
        model_pb2_grpc.add_ModelServiceServicer_to_server(fake, server)
        health: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {
            "Check": grpc.unary_unary_rpc_method_handler(fake.check),
            "Watch": grpc.unary_stream_rpc_method_handler(fake.watch),
        }
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("grpc.health.v1.Health", health),))
        if credentials is None:
            port = server.add_insecure_port(f"127.0.0.1:{port}")
        else:
            port = server.add_secure_port(f"127.0.0.1:{port}", credentials)
        fake.target = f"127.0.0.1:{port}"
        server.start()
        try:
            yield fake
        finally:
            server.stop(grace=None).wait()
