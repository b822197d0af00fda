"""The two ways to ask for a classification: our own API, and the Open Inference Protocol."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt
from google.protobuf.message import DecodeError

from convserve.errors import ConfigError
from convserve.loadtest.samples import Sample

if TYPE_CHECKING:
    from convserve.open_inference.v2.infer_pb2 import ModelInferResponse


UNREADABLE = (DecodeError, ValueError, LookupError, TypeError)
"""What reading a reply raises that is none."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A reply, read. Times are seconds; -1 where the server did not tell."""

    classes: Sequence[int]
    """The most probable class of each row."""
    probabilities: Sequence[float]
    """Its probability."""
    version: str
    """The model version that answered."""
    queue_seconds: float = -1.0
    """From arrival in the server's queue to the start of the batch."""
    wait_seconds: float = -1.0
    """From the arrival of the batch's first row to the batch's release."""
    run_seconds: float = -1.0
    """What the model took."""
    batch_rows: int = 0
    """Rows of all requests in the batch; 0 where the server did not tell."""


class Dialect(Protocol):
    """Makes requests and reads replies."""

    path: str
    """`/package.Service/Method`."""

    def request(self, samples: Sequence[Sample], top_k: int = 1) -> bytes:
        """A request for one or more samples; `top_k` where the dialect can limit what comes back."""

    def answer(self, message: bytes) -> Answer:
        """Read a reply. Raises one of `UNREADABLE` when it is none."""

    def ranking(self, message: bytes) -> Sequence[tuple[int, float]]:
        """Classes and probabilities of a reply's first row, as many as it holds."""


@dataclass(frozen=True)
class Wanted:
    """What every request asks for."""

    dialect: str
    """`native` or `oip`."""
    model: str
    version: str = ""
    """Number or alias; empty: the server's choice."""
    explain: bool = True
    """Whether replies should tell how their batches ran; other servers of the Open Inference Protocol do not."""


class Native:
    """`convserve.v1`."""

    path = "/convserve.v1.ClassificationService/Classify"

    def __init__(self, wanted: Wanted) -> None:
        """Ask for what is wanted."""
        from convserve.v1 import classification_pb2 as pb

        self._pb = pb
        self._wanted = wanted

    def request(self, samples: Sequence[Sample], top_k: int = 1) -> bytes:
        """A request for one or more samples, all of one form."""
        message = self._pb.ClassifyRequest(model=self._wanted.model, explain=self._wanted.explain, top_k=top_k)
        if self._wanted.version.isdecimal():
            message.version = int(self._wanted.version)
        elif self._wanted.version:
            message.alias = self._wanted.version
        if isinstance(samples[0].content, bytes):
            message.encoded.images.extend(sample.content for sample in samples)  # type: ignore[misc]  # of one form
        else:
            message.packed.data = _joined(samples)
            message.packed.shape.extend((len(samples), *samples[0].content.shape))
        return message.SerializeToString()

    def answer(self, message: bytes) -> Answer:
        """Read a reply."""
        reply = self._pb.ClassifyResponse.FromString(message)
        best = [result.predictions[0] for result in reply.results]
        queue = wait = run = -1.0
        rows = 0
        for batch in reply.batches:  # the slowest of a request that was split
            queue, wait = max(queue, batch.queue_seconds), max(wait, batch.batch_wait_seconds)
            run, rows = max(run, batch.run_seconds), max(rows, batch.rows)
        classes, probabilities = [one.index for one in best], [one.probability for one in best]
        return Answer(classes, probabilities, str(reply.model_version), queue, wait, run, rows)

    def ranking(self, message: bytes) -> Sequence[tuple[int, float]]:
        """Classes and probabilities of the first row."""
        first = self._pb.ClassifyResponse.FromString(message).results[0]
        return [(one.index, one.probability) for one in first.predictions]


class OpenInference:
    """The Open Inference Protocol, version 2: Triton's and KServe's."""

    path = "/inference.GRPCInferenceService/ModelInfer"

    def __init__(self, wanted: Wanted) -> None:
        """Ask for what is wanted."""
        from convserve.open_inference.v2 import infer_pb2 as pb

        self._pb = pb
        self._wanted = wanted

    def request(self, samples: Sequence[Sample], top_k: int = 1) -> bytes:  # noqa: ARG002  # all classes come back
        """A request for one or more samples, all of one form."""
        message = self._pb.ModelInferRequest(model_name=self._wanted.model, model_version=self._wanted.version)
        message.outputs.add(name="probabilities")
        if self._wanted.explain:
            message.parameters["explain"].bool_param = True
        first = samples[0].content
        if isinstance(first, bytes):
            message.inputs.add(name="image", datatype="BYTES", shape=[len(samples)])
            parts = [sample.content for sample in samples]
            raw = b"".join(len(part).to_bytes(4, "little") + part for part in parts)  # type: ignore[operator]
        else:
            message.inputs.add(name="image", datatype="UINT8", shape=[len(samples), *first.shape])
            raw = _joined(samples)
        message.raw_input_contents.append(raw)
        return message.SerializeToString()

    def answer(self, message: bytes) -> Answer:
        """Read a reply."""
        reply = self._pb.ModelInferResponse.FromString(message)
        rows = self._rows(reply)
        best = rows.argmax(axis=1)
        queue = wait = run = -1.0
        batch_rows = 0
        if "batches" in reply.parameters:
            for batch in json.loads(reply.parameters["batches"].string_param):
                queue, wait = max(queue, batch["queue_seconds"]), max(wait, batch["batch_wait_seconds"])
                run, batch_rows = max(run, batch["run_seconds"]), max(batch_rows, batch["rows"])
        probabilities = rows[np.arange(len(rows)), best].tolist()
        return Answer(best.tolist(), probabilities, reply.model_version, queue, wait, run, batch_rows)

    def ranking(self, message: bytes) -> Sequence[tuple[int, float]]:
        """Classes and probabilities of the first row."""
        return list(enumerate(self._rows(self._pb.ModelInferResponse.FromString(message))[0].tolist()))

    @staticmethod
    def _rows(reply: ModelInferResponse) -> npt.NDArray[np.float32]:
        """Probabilities, float32 [rows, classes]."""
        if len(reply.outputs) != 1 or not reply.raw_output_contents:
            raise ValueError(f"{len(reply.outputs)} outputs came; probabilities were asked for, raw")
        rows = np.frombuffer(reply.raw_output_contents[0], np.float32)
        return rows.reshape(tuple(reply.outputs[0].shape))


def _joined(samples: Sequence[Sample]) -> bytes:
    """The bytes of all pixels."""
    return b"".join(sample.content for sample in samples)  # type: ignore[misc]  # arrays are buffers


def make(wanted: Wanted) -> Dialect:
    """The dialect of that name.

    Raises:
        ConfigError: there is none.
    """
    kinds: dict[str, type[Native] | type[OpenInference]] = {"native": Native, "oip": OpenInference}
    if wanted.dialect not in kinds:
        raise ConfigError(f"dialect: {wanted.dialect!r} came; wanted is {' or '.join(kinds)}")
    return kinds[wanted.dialect](wanted)
