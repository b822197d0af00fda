"""Other ONNX files of the same model: int8 arithmetic, and the graph as onnxruntime optimises it on this machine."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from convserve.arrays import Images
from convserve.manifest import INPUT_NAME, LOGITS_NAME

CALIBRATION_IMAGES = 512
"""Training images that tell the range of every activation."""
BATCH = 64
QUANTIZED = ("Conv", "MatMul", "Gemm", "MaxPool")
"""Operators that compute in int8; around them are QuantizeLinear and DequantizeLinear, which are standard ONNX."""


def write_int8(source: Path, target: Path, images: Images) -> None:
    """Write a statically quantised copy: int8 weights by channel, uint8 activations in ranges met on `images`.

    The layer that makes the logits stays in float32: it costs next to nothing, and 256 steps of a logit would show in
    every probability.

    Args:
        source: the float32 file.
        target: where to put the copy.
        images: training images, uint8 [N, H, W, C].
    """
    import onnx
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc, unused-ignore]
        """Hands out the images in batches."""

        def __init__(self) -> None:
            self._batches: Iterator[Images] = (images[start : start + BATCH] for start in range(0, len(images), BATCH))

        def get_next(self) -> dict[str, Images] | None:
            batch = next(self._batches, None)
            return None if batch is None else {INPUT_NAME: batch}

    logging.getLogger("root").setLevel(logging.ERROR)  # it speaks to the root logger, of options nobody chose
    with tempfile.TemporaryDirectory() as folder:
        prepared = Path(folder) / "prepared.onnx"
        quant_pre_process(source, prepared, skip_symbolic_shape=True)
        quantization.quantize_static(
            prepared,
            target,
            Reader(),
            quant_format=quantization.QuantFormat.QDQ,
            per_channel=True,
            weight_type=quantization.QuantType.QInt8,
            activation_type=quantization.QuantType.QUInt8,
            op_types_to_quantize=list(QUANTIZED),
            nodes_to_exclude=_nodes_before(onnx.load(prepared).graph, LOGITS_NAME),
        )
    proto = onnx.load(target)
    # The tool declares every operator set it knows; servers refuse files for sets that no node uses.
    used = {node.domain for node in proto.graph.node}
    unused = [entry for entry in proto.opset_import if entry.domain not in used]
    for entry in unused:
        proto.opset_import.remove(entry)
    onnx.save(proto, target)


def write_optimized(source: Path, target: Path) -> None:
    """Write the graph as onnxruntime has it after all its optimisations, which are made for this kind of processor."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4  # it warns that the file is for this kind of processor, which is what is wanted
    options.optimized_model_filepath = str(target)
    onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def _nodes_before(graph: Any, output: str) -> list[str]:
    """Names of the nodes that make an output from the last convolution's or dense layer's input on."""
    producers = {name: node for node in graph.node for name in node.output}
    names = []
    node = producers.get(output)
    while node is not None:
        names.append(node.name)
        if node.op_type in QUANTIZED:
            break
        node = producers.get(node.input[0])
    return names
