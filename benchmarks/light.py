"""Models as cheap as two presets, without training: the same layers, with weights by chance.

`light` is like `mnist-simple` (225,034 parameters): about 50 µs an image on one core, so that the calls weigh more than
the model. `heavy` is like `mnist-deep` (1,199,882 parameters): about 250 µs. What they answer means nothing, and is the
same each time.
"""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

from benchmarks import common
from convserve import manifest as manifests

SHAPE = (28, 28, 1)
NAME = "light"
HEAVY = "heavy"


def write_version(repository: Path, name: str = NAME) -> Path:
    """Publish one of the two as version 1. Returns the version's directory."""
    directory = repository / name / "1"
    directory.mkdir(parents=True)
    model = _model(deep=name == HEAVY)
    (directory / manifests.ONNX_FILE).write_bytes(model)
    images = np.random.default_rng(1).integers(0, 256, (16, *SHAPE), dtype=np.uint8)
    session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
    logits, probabilities = session.run(["logits", "probabilities"], {"image": images})
    np.savez(directory / manifests.GOLDEN_FILE, image=images, logits=logits, probabilities=probabilities)
    bundled, _ = manifests.read(common.newest(common.ROOT / "models/mnist"))  # of the same input and labels
    manifest = msgspec.structs.replace(
        bundled,
        model=name,
        version=1,
        golden=manifests.Golden(count=len(images), tolerances={"cpu": 1e-4}),
        files=manifests.digest_files(directory),
        variants={},
        trials={},
    )
    manifests.write(directory, manifest)
    return directory


def _model(*, deep: bool) -> bytes:
    nodes = [
        helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["float", "scale"], ["scaled"]),
        helper.make_node("Reshape", ["scaled", "one_channel"], ["pixels"]),
        helper.make_node("Conv", ["pixels", "w1", "b1"], ["c1"], kernel_shape=[3, 3]),
        helper.make_node("Relu", ["c1"], ["r1"]),
        *([] if deep else [helper.make_node("MaxPool", ["r1"], ["p1"], kernel_shape=[2, 2], strides=[2, 2])]),
        helper.make_node("Conv", ["r1" if deep else "p1", "w2", "b2"], ["c2"], kernel_shape=[3, 3]),
        helper.make_node("Relu", ["c2"], ["r2"]),
        helper.make_node("MaxPool", ["r2"], ["p2"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Flatten", ["p2"], ["flat"]),
        helper.make_node("Gemm", ["flat", "w3", "b3"], ["d3"]),
        helper.make_node("Relu", ["d3"], ["r3"]),
        helper.make_node("Gemm", ["r3", "w4", "b4"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=-1),
    ]
    rng = np.random.default_rng(0)

    def weights(name: str, *shape: int) -> onnx.TensorProto:
        values: npt.NDArray[np.float32] = rng.normal(0, 0.05, shape).astype(np.float32)
        return numpy_helper.from_array(values, name)

    constants = [
        numpy_helper.from_array(np.float32(1 / 255), "scale"),
        numpy_helper.from_array(np.array([-1, 1, *SHAPE[:2]], np.int64), "one_channel"),
        *[weights("w1", 32, 1, 3, 3), weights("b1", 32), weights("w2", 64, 32, 3, 3), weights("b2", 64)],
        *[weights("w3", 9216 if deep else 1600, 128), weights("b3", 128), weights("w4", 128, 10), weights("b4", 10)],
    ]
    graph = helper.make_graph(
        nodes,
        NAME,
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", *SHAPE])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 10]) for name in ("logits", "probabilities")],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())
