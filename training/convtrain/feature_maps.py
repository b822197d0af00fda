"""What the first convolutions of an exported model look for, and what they see in an image.

Read from the ONNX file, so it works for every published version and needs no TensorFlow.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from convserve.arrays import Images
from convserve.manifest import INPUT_NAME
from convtrain.errors import ExportError

ACTIVATIONS = frozenset({"Relu", "LeakyRelu", "Elu", "Tanh", "Sigmoid", "HardSigmoid"})
WITHIN = frozenset({"MaxPool", "BatchNormalization", "Mul", "Add", "Sub"})
"""What may lie between a convolution and its activation: a pool, and normalisation in one node or in several."""


@dataclass(frozen=True)
class FeatureMaps:
    """What one convolution makes of images, after its activation and the pool that may lie before that."""

    name: str
    """Such as `convolution 1`."""
    values: npt.NDArray[np.float32]
    """float32 [N, height, width, channels]."""


def first_filters(path: Path) -> npt.NDArray[np.float32] | None:
    """Kernels of the first convolution, float32 [filters, height, width, channels]; None where there is none.

    Batch normalisation after it is folded into them, as the exporter does.
    """
    graph = _read(path).graph
    import onnx

    constants = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Conv" and node.input[1] in constants:
            kernels = onnx.numpy_helper.to_array(constants[node.input[1]])  # [filters, channels, height, width]
            return np.asarray(kernels.transpose(0, 2, 3, 1), np.float32)
    return None


def compute(path: Path, images: Images, count: int = 2) -> list[FeatureMaps]:
    """Run images, uint8 [N, H, W, C], and look at what comes out of the first `count` convolutions.

    A separable convolution counts as one: its part over the channels is what is shown.

    Raises:
        ExportError: the file is not a valid ONNX file.
    """
    import onnx
    import onnxruntime

    proto = _read(path)
    names = _outputs_of_convolutions(proto.graph)[:count]
    if not names:
        return []
    del proto.graph.output[:]
    proto.graph.output.extend(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in names)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    found = session.run(names, {INPUT_NAME: images})
    return [
        FeatureMaps(f"convolution {number}", np.ascontiguousarray(values.transpose(0, 2, 3, 1)))
        for number, values in enumerate(found, start=1)
    ]


def _outputs_of_convolutions(graph: Any) -> list[str]:
    """Tensors that leave a convolution and its activation, in order."""
    links = _Links(graph)
    names = []
    for node in graph.node:
        if node.op_type != "Conv":
            continue
        groups = next((attribute.i for attribute in node.attribute if attribute.name == "group"), 1)
        if groups > 1:
            continue  # the part of a separable convolution that sees one channel at a time
        names.append(links.activated(node.output[0]))
    return names


class _Links:
    """Which node makes a tensor, and which take it."""

    def __init__(self, graph: Any) -> None:
        self._constants = {tensor.name for tensor in graph.initializer}
        self._producers = {name: node for node in graph.node for name in node.output}
        self._consumers: dict[str, list[Any]] = {}
        for node in graph.node:
            for name in node.input:
                self._consumers.setdefault(name, []).append(node)

    def activated(self, convolved: str) -> str:
        """The tensor after a convolution's activation; the convolution's own where none follows."""
        name = convolved
        while True:
            after = self._consumers.get(name, [])
            if len(after) == 1 and after[0].op_type in ACTIVATIONS:
                return str(after[0].output[0])
            if len(after) == 2 and (gated := self._gated(name, after)):
                return gated
            if len(after) != 1 or after[0].op_type not in WITHIN or self._variable(after[0]) != [name]:
                return convolved
            name = after[0].output[0]

    def _gated(self, name: str, after: list[Any]) -> str:
        """The product of a tensor with a function of itself, as SiLU and GELU are written; empty if it is none."""
        for node in after:
            inputs = self._variable(node)
            if node.op_type != "Mul" or len(inputs) != 2:
                continue
            factor = next((one for one in inputs if one != name), name)
            while factor in self._producers and factor != name:
                steps = self._variable(self._producers[factor])
                factor = steps[0] if len(steps) == 1 else ""
            if factor == name:
                return str(node.output[0])
        return ""

    def _variable(self, node: Any) -> list[str]:
        return [name for name in node.input if name not in self._constants]


def _read(path: Path) -> Any:
    import onnx
    from google.protobuf.message import DecodeError

    try:
        return onnx.load(path)
    except (OSError, DecodeError) as error:
        raise ExportError(f"{path}: cannot be read as an ONNX file ({error})") from error
