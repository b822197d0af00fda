"""engine.Result to ModelInferResponse. Tensors are always raw, as Triton's replies are."""

from __future__ import annotations

from dataclasses import dataclass

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
    return Wanted(_outputs(message) if message.outputs else _ALL, parameters.explain(message.parameters))


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


def write(result: Result, wanted: Wanted, request_id: str) -> pb.ModelInferResponse:
    """Turn a result into a message."""
    manifest = result.version.manifest
    response = pb.ModelInferResponse(model_name=manifest.model, model_version=str(manifest.version), id=request_id)
    for one in wanted.outputs:
        values = result.outputs.logits if one.name == LOGITS_NAME else result.outputs.probabilities
        tensor = response.outputs.add(name=one.name, datatype="BYTES" if one.classes else "FP32")
        if one.classes:
            classes, scores = best(values, one.classes)
            tensor.shape.extend((len(classes), len(classes[0])))
            response.raw_output_contents.append(_classes(scores, classes, manifest.labels))
        else:
            tensor.shape.extend(values.shape)
            response.raw_output_contents.append(tensors.write_numbers(values))
    if wanted.explain:
        response.parameters[explain.PARAMETER].string_param = explain.batches(result)
    return response


def _classes(scores: list[list[float]], classes: list[list[int]], labels: list[str]) -> bytes:
    """`value:index:label` for each class, as Triton's classification extension has it; six decimals."""
    return tensors.write_strings(
        [
            f"{value:.6f}:{index}:{labels[index]}".encode()
            for row, indices in zip(scores, classes, strict=True)
            for value, index in zip(row, indices, strict=True)
        ]
    )
