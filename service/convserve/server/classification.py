"""`convserve.v1.ClassificationService`: messages to values and back, nothing else."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import grpc
import numpy as np

from convserve.arrays import Images, best
from convserve.batching import BatchRun, Priority, ReleaseReason
from convserve.engine import Engine, Request, Result
from convserve.errors import ConvserveError, InvalidRequestError
from convserve.registry import LoadedVersion, Registry
from convserve.server.rpc import Call, Guard, Unary
from convserve.v1 import classification_pb2 as pb

SERVICE = "convserve.v1.ClassificationService"

_PRIORITIES = {
    pb.PRIORITY_UNSPECIFIED: Priority.NORMAL,
    pb.PRIORITY_LOW: Priority.LOW,
    pb.PRIORITY_NORMAL: Priority.NORMAL,
    pb.PRIORITY_HIGH: Priority.HIGH,
}
_REASONS = {
    ReleaseReason.FULL: pb.RELEASE_REASON_FULL,
    ReleaseReason.WINDOW: pb.RELEASE_REASON_WINDOW,
    ReleaseReason.IDLE: pb.RELEASE_REASON_IDLE,
    ReleaseReason.DEADLINE: pb.RELEASE_REASON_DEADLINE,
    ReleaseReason.DRAIN: pb.RELEASE_REASON_DRAIN,
}


class ClassificationServicer:
    """Answers Classify."""

    def __init__(self, engine: Engine, registry: Registry) -> None:
        """Classify with `engine`; `registry` tells which models exist."""
        self._engine = engine
        self._registry = registry

    def handler(self, guard: Guard) -> grpc.GenericRpcHandler:
        """The service for a synchronous server."""
        return grpc.method_handlers_generic_handler(SERVICE, {one.name: guard.waiting(one) for one in self.hot()})

    def hot(self) -> list[Unary[Any, Any]]:
        """The methods that a fast lane may take over."""
        return [
            Unary(
                SERVICE,
                "Classify",
                "convserve.v1",
                pb.ClassifyRequest,
                self.classify,
                model_of=lambda request: request.model,
                decodes=lambda request: request.HasField("encoded"),
            )
        ]

    def classify(
        self, message: pb.ClassifyRequest, call: Call, reply: Callable[[pb.ClassifyResponse | ConvserveError], None]
    ) -> Callable[[], None]:
        """Start a classification; returns what cancels it."""
        if self._registry.has_model(message.model):
            call.model = message.model
        request = _read(message, call)

        def done(outcome: Result | ConvserveError) -> None:
            reply(outcome if isinstance(outcome, ConvserveError) else _write(outcome, message, call.request_id))

        return self._engine.submit(request, done, call.turns).cancel


def _read(message: pb.ClassifyRequest, call: Call) -> Request:
    """Turn a message into a request.

    Raises:
        InvalidRequestError: names the field.
    """
    if not message.model:
        raise InvalidRequestError.of("model", "is empty; name the model, ListModels tells which there are")
    version = None
    choice = message.WhichOneof("version_choice")
    if choice == "version":
        if message.version < 1:
            raise InvalidRequestError.of("version", f"{message.version} came; versions are 1 or higher")
        version = message.version
    elif choice == "alias" and not message.alias:
        raise InvalidRequestError.of("alias", "is empty; name one, or leave it out for the server's choice")
    images: Images | Sequence[bytes]
    form = message.WhichOneof("input")
    if form == "packed":
        images, field = _unpack(message.packed), "packed.shape"
    elif form == "encoded":
        images, field = message.encoded.images, "encoded.images"
    else:
        raise InvalidRequestError.of("input", "is missing; set `encoded` (image files) or `packed` (pixels)")
    priority = _PRIORITIES.get(message.priority)
    if priority is None:
        raise InvalidRequestError.of("priority", f"{message.priority} came, which is no Priority")
    return Request(
        message.model,
        images,
        field,
        version=version,
        alias=message.alias,
        request_id=call.request_id,
        deadline=call.deadline,
        priority=priority,
        trail=call,
    )


def _unpack(packed: pb.PackedImages) -> Images:
    """View the bytes as uint8 [N, H, W, C], without another copy."""
    shape = tuple(packed.shape)
    if len(shape) != 4 or min(shape) < 1:
        raise InvalidRequestError.of(
            "packed.shape", f"{list(shape)} came; it must be [images, height, width, channels], each at least 1"
        )
    data = packed.data  # read once: protobuf copies the bytes at every access
    size = math.prod(shape)
    if size != len(data):
        raise InvalidRequestError.of("packed.data", f"{len(data)} bytes came; shape {list(shape)} takes {size} (uint8)")
    return np.frombuffer(data, np.uint8).reshape(shape)


def _write(result: Result, message: pb.ClassifyRequest, request_id: str) -> pb.ClassifyResponse:
    """Turn a result into a message."""
    manifest = result.version.manifest
    probabilities = result.outputs.probabilities
    classes, values = best(probabilities, max(message.top_k, 1))
    labels = manifest.labels
    response = pb.ClassifyResponse(
        model=manifest.model,
        model_version=manifest.version,
        results=[
            pb.ImageResult(
                predictions=[
                    pb.Prediction(label=labels[index], index=index, probability=value)
                    for index, value in zip(indices, row, strict=True)
                ]
            )
            for indices, row in zip(classes, values, strict=True)
        ],
        request_id=request_id,
    )
    for image, steps in zip(response.results, result.decoding, strict=False):  # packed images have no steps
        image.decoding.extend(steps)
    if message.explain:
        response.batches.extend(_explain(run, result.version) for run in result.runs)
    return response


def _explain(run: BatchRun, version: LoadedVersion) -> pb.BatchInfo:
    return pb.BatchInfo(
        request_rows=run.item_rows,
        rows=run.rows,
        padded_rows=run.padded_rows,
        release_reason=_REASONS[run.reason],
        queue_seconds=run.queue_seconds,
        batch_wait_seconds=run.batch_wait_seconds,
        run_seconds=run.run_seconds,
        provider=version.runtime.provider,
        variant=version.runtime.variant,
        model_digest=version.digest,
    )
