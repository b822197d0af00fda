"""The synchronous client."""

from __future__ import annotations

import time
import uuid
from collections import deque
from collections.abc import Iterable
from types import TracebackType
from typing import TypeVar

import grpc

from convserve.client import codec, status
from convserve.client.codec import Chunk, ImageLike, Options
from convserve.client.results import Classification, ModelInfo
from convserve.v1 import model_pb2
from convserve.v1.classification_pb2_grpc import ClassificationServiceStub
from convserve.v1.model_pb2_grpc import ModelServiceStub

Q = TypeVar("Q")
A = TypeVar("A")

DEFAULT_TIMEOUT = 10.0
"""Seconds an RPC may take when the caller says nothing."""

DEFAULT_MAX_MESSAGE_BYTES = 64 * 2**20
"""Bytes of one message, in either direction: the server's default."""

_IN_FLIGHT = 4
"""RPCs of one big batch under way at a time: the server always has the next rows, and others find room in its queue."""

_SERVING = b"\x08\x01"
"""A `grpc.health.v1.HealthCheckResponse` whose status is SERVING, as it travels."""


class Client:
    """Classifies images with a convserve server. One client serves many threads.

    The connection is made at the first call, and again when it was lost. Close the client, or use it as a context
    manager, to drop it.

    Every call may raise, besides what it names itself:

    * UnavailableError: the server cannot be reached, is loading or is draining.
    * DeadlineError: the deadline has passed, or the server refused because it cannot be met.
    * OverloadedError: the queue is full; `retry_after_seconds` says when to try again.
    * UnauthenticatedError, PermissionDeniedError: credentials are missing, wrong, or not enough.
    * UnsupportedError: the server does not have this method.
    * InternalError: the server failed; `request_id` finds the reason in its log.
    """

    def __init__(
        self,
        target: str,
        *,
        timeout: float = DEFAULT_TIMEOUT,
        max_message_bytes: int = DEFAULT_MAX_MESSAGE_BYTES,
    ) -> None:
        """Prepare to talk to `target`; no connection is made yet.

        Args:
            target: `host:port`, or any name gRPC resolves, such as `dns:///models.example:8001`.
            timeout: seconds that each RPC may take, unless a call says otherwise.
            max_message_bytes: bytes of the largest message, sent or received. The server has a limit of its own.
        """
        self._timeout = timeout
        self._max_message_bytes = max_message_bytes
        self._channel = grpc.insecure_channel(
            target,
            options=[
                ("grpc.max_send_message_length", max_message_bytes),
                ("grpc.max_receive_message_length", max_message_bytes),
            ],
        )
        self._classification = ClassificationServiceStub(self._channel)
        self._models = ModelServiceStub(self._channel)
        # Without serializers: bytes go out, bytes come in.
        self._check_health: grpc.UnaryUnaryMultiCallable[bytes, bytes] = self._channel.unary_unary(
            "/grpc.health.v1.Health/Check"
        )

    def __enter__(self) -> Client:
        """Return the client itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close the client."""
        self.close()

    def close(self) -> None:
        """Drop the connection. Calls under way end with CancelledError."""
        self._channel.close()

    def classify(
        self,
        image: ImageLike,
        *,
        model: str,
        version: int | str | None = None,
        top_k: int = 1,
        timeout: float | None = None,
        explain: bool = False,
        request_id: str | None = None,
    ) -> Classification:
        """Classify one image.

        Args:
            image: path of an image file, its bytes, a file object, a Pillow image, or a uint8 array [H, W] or [H, W, C]
                in the model's shape.
            model: name of the model.
            version: version number, or alias such as `stable`. None: the server's choice.
            top_k: classes to return, most probable first.
            timeout: seconds the call may take; None: the client's.
            explain: whether the result tells how its batch ran.
            request_id: id for the server's logs; None: a new one.

        Raises:
            InvalidRequestError: this is no image, or not one that the model takes.
            NotFoundError: no such model, version or alias.
            VersionNotAvailableError: the version exists and cannot answer.
            OSError: the file cannot be read.
        """
        options = Options(model, version, top_k, explain)
        (chunk,) = codec.chunks([image], options, self._max_message_bytes)
        request_id = request_id or uuid.uuid4().hex
        reply = self._ask(self._classification.Classify, chunk.request, timeout, request_id)
        (result,) = codec.classifications(reply, 1)
        return result

    def classify_batch(
        self,
        images: Iterable[ImageLike],
        *,
        model: str,
        version: int | str | None = None,
        top_k: int = 1,
        timeout: float | None = None,
        explain: bool = False,
        request_id: str | None = None,
    ) -> list[Classification]:
        """Classify many images; the results are in the order of the images.

        Many images travel in several RPCs, some at a time. If one fails, the others are given up and its error is
        raised; positions in it count from the first image. Arguments and errors are those of `classify`, but:

        Args:
            images: any iterable of images, of any kinds mixed; or one uint8 array [N, H, W] or [N, H, W, C].
            model: name of the model.
            version: version number, or alias such as `stable`. None: the server's choice.
            top_k: classes to return for each image, most probable first.
            timeout: seconds the whole call may take; None: each RPC has the client's timeout.
            explain: whether each result tells how its batch ran.
            request_id: id for the server's logs; RPCs after the first add `-` and the position of their first image.
        """
        options = Options(model, version, top_k, explain)
        request_id = request_id or uuid.uuid4().hex
        ends = None if timeout is None else time.monotonic() + timeout
        pending: deque[_Call] = deque()
        results: list[Classification] = []
        try:
            for chunk in codec.chunks(images, options, self._max_message_bytes):
                if len(pending) == _IN_FLIGHT:
                    results += pending.popleft().finish()
                left = self._timeout if ends is None else ends - time.monotonic()
                chunk_id = f"{request_id}-{chunk.first}" if chunk.first else request_id
                pending.append(_Call(self._classification, chunk, left, chunk_id))
            while pending:
                results += pending.popleft().finish()
        finally:
            for call in pending:
                call.cancel()
        return results

    def models(self, *, timeout: float | None = None) -> list[ModelInfo]:
        """Describe every model of the server with all its versions, sorted by name; those that failed included."""
        reply = self._ask(self._models.ListModels, model_pb2.ListModelsRequest(), timeout, uuid.uuid4().hex)
        return [codec.model_info(model) for model in reply.models]

    def model(self, name: str, *, timeout: float | None = None) -> ModelInfo:
        """Describe one model.

        Raises:
            NotFoundError: the server has no such model.
        """
        reply = self._ask(self._models.GetModel, model_pb2.GetModelRequest(name=name), timeout, uuid.uuid4().hex)
        return codec.model_info(reply.model)

    def health(self, *, timeout: float | None = None) -> bool:
        """Whether the server says that it takes requests (`grpc.health.v1`).

        Raises:
            UnavailableError: the server cannot be reached.
        """
        return self._ask(self._check_health, b"", timeout, uuid.uuid4().hex) == _SERVING

    def _ask(self, method: grpc.UnaryUnaryMultiCallable[Q, A], request: Q, timeout: float | None, request_id: str) -> A:
        """Make one RPC and wait for its reply."""
        try:
            return method(
                request,
                timeout=self._timeout if timeout is None else timeout,
                metadata=((status.REQUEST_ID_KEY, request_id),),
            )
        except grpc.RpcError as failure:
            raise status.error_of(failure, request_id) from failure


class _Call:
    """One RPC of a big batch, under way."""

    def __init__(self, stub: ClassificationServiceStub, chunk: Chunk, timeout: float, request_id: str) -> None:
        """Send the chunk."""
        self._chunk = chunk
        self._request_id = request_id
        self._future = stub.Classify.future(
            chunk.request, timeout=timeout, metadata=((status.REQUEST_ID_KEY, request_id),)
        )

    def cancel(self) -> None:
        """Give the RPC up."""
        self._future.cancel()

    def finish(self) -> list[Classification]:
        """Wait for the reply."""
        try:
            reply = self._future.result()
        except grpc.RpcError as failure:
            raise status.error_of(failure, self._request_id, self._chunk.first) from failure
        return codec.classifications(reply, self._chunk.rows)
