"""Replies written from pieces are what protobuf would have written from messages."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from convserve.arrays import Probabilities, best
from convserve.errors import ConvserveError, InternalError
from convserve.manifest import Manifest
from convserve.server.replies import ReplyWriter
from convserve.server.rpc import replying
from convserve.v1 import classification_pb2 as pb

LABELS = st.lists(st.text(st.characters(codec="utf-8"), max_size=200), min_size=2, max_size=300)
STEPS = st.lists(st.text(st.characters(codec="utf-8"), max_size=150), max_size=3)


class Named(msgspec.Struct):
    """What a writer looks at in a manifest."""

    labels: list[str]
    model: str = "digits"
    version: int = 12


def built(
    manifest: Named | Manifest,
    probabilities: Probabilities,
    k: int,
    request_id: str,
    decoding: list[list[str]],
    batches: list[pb.BatchInfo],
) -> pb.ClassifyResponse:
    """The same reply, message by message."""
    classes, values = best(probabilities, k)
    response = pb.ClassifyResponse(model=manifest.model, model_version=manifest.version, request_id=request_id)
    for number, (indices, row) in enumerate(zip(classes, values, strict=True)):
        predictions = [
            pb.Prediction(label=manifest.labels[index], index=index, probability=value)
            for index, value in zip(indices, row, strict=True)
        ]
        steps = decoding[number] if decoding else []
        response.results.append(pb.ImageResult(predictions=predictions, decoding=steps))
    response.batches.extend(batches)
    return response


@settings(max_examples=200, deadline=None)
@given(data=st.data(), labels=LABELS, rows=st.integers(1, 5), explained=st.booleans())
def test_a_written_reply_parses_to_the_message_that_was_meant(
    data: st.DataObject, labels: list[str], rows: int, explained: bool
) -> None:
    """For any labels, rows, number of classes, request id, decoding steps and batches."""
    manifest = Named(labels)
    random = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    probabilities = random.dirichlet(np.full(len(labels), 0.1), rows).astype(np.float32)
    k = data.draw(st.integers(1, len(labels) + 3))
    request_id = data.draw(st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=128))
    decoding = data.draw(st.one_of(st.just([]), st.lists(STEPS, min_size=rows, max_size=rows)))
    batches = [pb.BatchInfo(rows=rows, run_seconds=0.5, model_digest="ab")] if explained else []

    writer = ReplyWriter(manifest)  # type: ignore[arg-type]
    written = writer.write(probabilities, k, request_id, decoding, batches)

    assert pb.ClassifyResponse.FromString(written) == built(manifest, probabilities, k, request_id, decoding, batches)


@pytest.mark.parametrize("rows", [1, 7])
def test_of_equally_probable_classes_the_first_is_told(rows: int) -> None:
    """Ties go in the order of the index, for one row as for many."""
    manifest = Named(["zero", "one", "two"])
    probabilities = np.tile(np.array([0.2, 0.4, 0.4], np.float32), (rows, 1))

    written = ReplyWriter(manifest).write(probabilities, 1, "id")  # type: ignore[arg-type]

    results = pb.ClassifyResponse.FromString(written).results
    assert [one.predictions[0].label for one in results] == ["one"] * rows


def test_a_reply_that_cannot_be_written_is_answered_as_an_error() -> None:
    """A mistake of ours must not leave a caller waiting until the deadline."""
    answers: list[bytes | ConvserveError] = []

    def broken(_result: object) -> bytes:
        raise KeyError("no such label")

    replying(answers.append, broken)(object())  # type: ignore[arg-type]

    assert len(answers) == 1
    assert isinstance(answers[0], InternalError)
