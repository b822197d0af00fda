"""`convserve.v1.ClassificationService`: messages to values and back, nothing else."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import grpc
import numpy as np

from convserve.arrays import Images
from convserve.batching import BatchRun, Priority, ReleaseReason
from convserve.engine import Engine, Request, Result
from convserve.errors import InvalidRequestError
from convserve.registry import LoadedVersion, Registry
from convserve.server import shapes
from convserve.server.call import Call
from convserve.server.replies import ReplyWriter
from convserve.server.rpc import Cancel, Guard, Reply, Unary, replying
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

    def hot(self) -> list[Unary[Any]]:
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

    def classify(self, message: pb.ClassifyRequest, call: Call, reply: Reply) -> Cancel:
        """Start a classification; returns what cancels it."""
        if self._registry.has_model(message.model):
            call.model = message.model
        request = _read(message, call)
        top_k, explain, request_id = message.top_k, message.explain, call.request_id

        def write(result: Result) -> bytes:
            batches = [_explain(run, result.version) for run in result.runs] if explain else ()
            return _writer(result.version).write(
                result.outputs.probabilities, top_k or 1, request_id, result.decoding, batches
            )

        return self._engine.submit(request, replying(reply, write), call.turns).cancel


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
    return Request(message.model, images, field, version, message.alias, call.request_id, call.deadline, priority, call)


def _unpack(packed: pb.PackedImages) -> Images:
    """View the bytes as uint8 [N, H, W, C], without another copy."""
    shape = shapes.read(packed.shape, "packed.shape")
    if len(shape) != 4 or min(shape) < 1:
        raise InvalidRequestError.of(
            "packed.shape", f"{list(shape)} came; it must be [images, height, width, channels], each at least 1"
        )
    data = packed.data  # read once: protobuf copies the bytes at every access
    size = math.prod(shape)
    if size != len(data):
        raise InvalidRequestError.of("packed.data", f"{len(data)} bytes came; shape {list(shape)} takes {size} (uint8)")
    return np.ndarray(shape, np.uint8, data)


def _writer(version: LoadedVersion) -> ReplyWriter:
    """What writes the version's replies; made for the first one."""
    writer: ReplyWriter | None = version.derived.get(ReplyWriter)
    if writer is None:
        writer = version.derived[ReplyWriter] = ReplyWriter(version.manifest)
    return writer


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
