"""Native replies as bytes, from pieces that protobuf has serialized before.

Serialized messages of one type may follow each other; together they are one message, whose repeated fields hold those
of all. So a reply is three pieces in a row::

    head   model, version      serialized once for each version
    rows   label, index        serialized once for each class; each row brings its probability
    tail   request id, batches

Building the messages row by row takes protobuf several times as long as everything else about a small request.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

import numpy as np

from convserve.arrays import Probabilities, top_k
from convserve.manifest import Manifest
from convserve.v1 import classification_pb2 as pb

_LENGTH_DELIMITED, _FIXED32 = 2, 5
_pack_float = struct.Struct("<f").pack


def _varint(number: int) -> bytes:
    """A number from 0, as protobuf writes lengths."""
    data = bytearray()
    while number > 0x7F:
        data.append(number & 0x7F | 0x80)
        number >>= 7
    data.append(number)
    return bytes(data)


def _tag(field_number: int, wire_type: int) -> bytes:
    return _varint(field_number << 3 | wire_type)


_RESULTS = _tag(pb.ClassifyResponse.RESULTS_FIELD_NUMBER, _LENGTH_DELIMITED)
_REQUEST_ID = _tag(pb.ClassifyResponse.REQUEST_ID_FIELD_NUMBER, _LENGTH_DELIMITED)
_PREDICTIONS = _tag(pb.ImageResult.PREDICTIONS_FIELD_NUMBER, _LENGTH_DELIMITED)
_PROBABILITY = _tag(pb.Prediction.PROBABILITY_FIELD_NUMBER, _FIXED32)
_FLOAT_BYTES = 4


class ReplyWriter:
    """Writes the replies of one version."""

    def __init__(self, manifest: Manifest) -> None:
        """Serialize what all replies share."""
        self._head = pb.ClassifyResponse(model=manifest.model, model_version=manifest.version).SerializeToString()
        self._predictions = [_prediction(label, index) for index, label in enumerate(manifest.labels)]
        self._rows = [
            _RESULTS + _varint(len(prediction) + _FLOAT_BYTES) + prediction for prediction in self._predictions
        ]

    def write(
        self,
        probabilities: Probabilities,
        k: int,
        request_id: str,
        decoding: Sequence[Sequence[str]] = (),
        batches: Sequence[pb.BatchInfo] = (),
    ) -> bytes:
        """A serialized ClassifyResponse.

        Args:
            probabilities: float32 [n, classes].
            k: so many classes of each row, at least 1.
            request_id: ASCII.
            decoding: what was done to each image; empty when there was nothing to decode.
            batches: the batches that the rows ran in.
        """
        tail = _REQUEST_ID + _varint(len(request_id)) + request_id.encode()
        if batches:
            tail += pb.ClassifyResponse(batches=batches).SerializeToString()
        if k == 1 and not decoding:
            if len(probabilities) == 1:  # NumPy takes longer for an axis than for a row
                row = probabilities[0]
                index = int(row.argmax())
                return self._head + self._rows[index] + _pack_float(row.item(index)) + tail
            return self._head + self._best(probabilities) + tail
        return self._head + self._several(probabilities, k, decoding) + tail

    def _best(self, probabilities: Probabilities) -> bytes:
        """The most probable class of each row."""
        rows, scores = self._rows, _floats(probabilities.max(axis=1))
        pieces = [rows[index] for index in probabilities.argmax(axis=1).tolist()]
        return b"".join([piece for pair in zip(pieces, scores, strict=True) for piece in pair])

    def _several(self, probabilities: Probabilities, k: int, decoding: Sequence[Sequence[str]]) -> bytes:
        """Some classes of each row, and what decoding did."""
        indices = top_k(probabilities, k)
        scores = iter(_floats(np.take_along_axis(probabilities, indices, axis=1)))
        pieces: list[bytes] = []
        for number, classes in enumerate(indices.tolist()):
            row = b"".join([self._predictions[index] + next(scores) for index in classes])
            if decoding:
                row += pb.ImageResult(decoding=decoding[number]).SerializeToString()
            pieces += (_RESULTS, _varint(len(row)), row)
        return b"".join(pieces)


def _prediction(label: str, index: int) -> bytes:
    """A Prediction as a field of an ImageResult, up to the bytes of its probability."""
    message = pb.Prediction(label=label, index=index).SerializeToString() + _PROBABILITY
    return _PREDICTIONS + _varint(len(message) + _FLOAT_BYTES) + message


def _floats(values: Probabilities) -> list[bytes]:
    """Each number's 4 bytes, as protobuf has them, in C order."""
    data = values.astype("<f4", copy=False).tobytes()
    return [data[at : at + _FLOAT_BYTES] for at in range(0, len(data), _FLOAT_BYTES)]
