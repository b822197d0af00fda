"""engine.Result to ModelInferResponse. Tensors are always raw, as Triton's replies are."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from convserve.arrays import best
from convserve.engine import Result
from convserve.errors import InvalidRequestError
from convserve.manifest import LOGITS_NAME, PROBABILITIES_NAME
from convserve.open_inference.v2 import infer_pb2 as pb
from convserve.server.open_inference import explain, parameters, tensors

OUTPUTS = (PROBABILITIES_NAME, LOGITS_NAME)
"""Names of all outputs, in the order they are sent when a request names none."""


@dataclass(frozen=True, slots=True)
class Output:
    """An output that a request wants."""

    name: str
    """One of `OUTPUTS`."""
    classes: int = 0
    """So many classes as text; 0: numbers."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a request wants in its reply."""

    outputs: tuple[Output, ...]
    """In the order in which they are sent."""
    explain: bool
    """Also how the request was batched."""


_ALL = tuple(Output(name) for name in OUTPUTS)


def wanted(message: pb.ModelInferRequest) -> Wanted:
    """What a request wants.

    Raises:
        InvalidRequestError: an output is unknown or named twice, or a parameter has another type.
        UnsupportedError: an output should go to shared memory.
    """
    return Wanted(
        _outputs(message) if message.outputs else _ALL, parameters.explain(parameters.read(message.parameters))
    )


def _outputs(message: pb.ModelInferRequest) -> tuple[Output, ...]:
    wanted: list[Output] = []
    for index, output in enumerate(message.outputs):
        field = f"outputs[{index}]"
        if output.name not in OUTPUTS:
            raise InvalidRequestError.of(
                f"{field}.name", f"{output.name!r} came; the model's outputs are {' and '.join(OUTPUTS)}"
            )
        if any(output.name == one.name for one in wanted):
            raise InvalidRequestError.of(f"{field}.name", f"{output.name!r} came twice")
        parameters.refuse_shared_memory(output.parameters)
        classes = parameters.integer(output.parameters, "classification", f"{field}.parameters")
        if "classification" in output.parameters and not classes:
            raise InvalidRequestError.of(f"{field}.parameters['classification']", "0 came; ask for at least one class")
        wanted.append(Output(output.name, classes))
    return tuple(wanted)


def write(result: Result, wanted: Wanted, request_id: str) -> bytes:
    """Turn a result into a serialized ModelInferResponse.

    Names, datatypes and shapes are the same for most replies and are serialized once; messages of one type that follow
    each other are one message.
    """
    manifest = result.version.manifest
    contents = []
    for one in wanted.outputs:
        values = result.outputs.logits if one.name == LOGITS_NAME else result.outputs.probabilities
        if one.classes:
            classes, scores = best(values, one.classes)
            contents.append(_classes(scores, classes, manifest.labels))
        else:
            contents.append(tensors.write_numbers(values))
    rows, count = result.outputs.probabilities.shape
    head = _head(manifest.model, manifest.version, wanted.outputs, rows, count)
    tail = pb.ModelInferResponse(id=request_id, raw_output_contents=contents)
    if wanted.explain:
        tail.parameters[explain.PARAMETER].string_param = explain.batches(result)
    return head + tail.SerializeToString()


@lru_cache(maxsize=1024)
def _head(model: str, version: int, outputs: tuple[Output, ...], rows: int, count: int) -> bytes:
    """A serialized reply without its tensors' contents; the model has `count` classes."""
    response = pb.ModelInferResponse(model_name=model, model_version=str(version))
    for one in outputs:
        columns = min(one.classes, count) or count
        response.outputs.add(name=one.name, datatype="BYTES" if one.classes else "FP32", shape=(rows, columns))
    return response.SerializeToString()


def _classes(scores: list[list[float]], classes: list[list[int]], labels: list[str]) -> bytes:
    """`value:index:label` for each class, as Triton's classification extension has it; six decimals."""
    return tensors.write_strings(
        [
            f"{value:.6f}:{index}:{labels[index]}".encode()
            for row, indices in zip(scores, classes, strict=True)
            for value, index in zip(row, indices, strict=True)
        ]
    )
