"""Replies to results."""

from __future__ import annotations

from convserve.client.results import BatchInfo, Classification, ModelInfo, Prediction, VersionInfo
from convserve.errors import InternalError
from convserve.v1 import classification_pb2 as pb
from convserve.v1 import model_pb2

_RELEASE_REASONS = {value: name.removeprefix("RELEASE_REASON_").lower() for name, value in pb.ReleaseReason.items()}
_STATES = {value: name.removeprefix("VERSION_STATE_").lower() for name, value in model_pb2.VersionState.items()}
_UNSPECIFIED = "unspecified"  # also for values that only a newer server knows


def classifications(reply: pb.ClassifyResponse, rows: int) -> list[Classification]:
    """Turn the reply to a request of `rows` images into one result for each.

    Raises:
        InternalError: the reply does not fit the request.
    """
    told = sum(message.request_rows for message in reply.batches)
    if len(reply.results) != rows or told not in (0, rows) or not all(one.predictions for one in reply.results):
        counts = [len(result.predictions) for result in reply.results[: rows + 1]]
        raise InternalError(
            f"the server answered {rows} images with {len(reply.results)} results of {counts} predictions,"
            f" in batches of {told} rows"
        )
    model, version, request_id = reply.model, reply.model_version, reply.request_id
    batches: list[BatchInfo | None] = []
    for message in reply.batches:
        batches += [_batch(message)] * message.request_rows
    return [
        Classification(
            tuple([Prediction(one.label, one.index, one.probability) for one in result.predictions]),
            model,
            version,
            tuple(result.decoding) if result.decoding else (),
            batch,
            request_id,
        )
        for result, batch in zip(reply.results, batches or [None] * rows, strict=True)
    ]


def _batch(message: pb.BatchInfo) -> BatchInfo:
    return BatchInfo(
        request_rows=message.request_rows,
        rows=message.rows,
        padded_rows=message.padded_rows,
        release_reason=_RELEASE_REASONS.get(message.release_reason, _UNSPECIFIED),
        queue_seconds=message.queue_seconds,
        batch_wait_seconds=message.batch_wait_seconds,
        run_seconds=message.run_seconds,
        provider=message.provider,
        variant=message.variant,
        model_digest=message.model_digest,
    )


def model_info(message: model_pb2.Model) -> ModelInfo:
    """Turn the description of a model into a result."""
    return ModelInfo(
        name=message.name,
        versions=tuple([_version_info(version) for version in message.versions]),
        default_version=message.default_version or None,
        aliases=dict(message.aliases),
    )


def _version_info(message: model_pb2.ModelVersion) -> VersionInfo:
    return VersionInfo(
        version=message.version,
        state=_STATES.get(message.state, _UNSPECIFIED),
        reason=message.reason,
        digest=message.digest,
        input_shape=tuple(message.input_shape),
        labels=tuple(message.labels),
        metrics=dict(message.metrics),
        dataset=message.dataset,
        preset=message.preset,
        provider=message.provider,
        max_batch_size=message.max_batch_size,
    )
