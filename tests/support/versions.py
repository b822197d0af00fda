"""Small complete model versions, made without TensorFlow: real ONNX, real golden vectors, real manifest.

The model tells bright images from dark ones by region: class c is the brightness of the c-th horizontal stripe, plus
small weights on all pixels, so that different images give different probabilities and a mixed-up row shows.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

from convserve import manifest as m
from convserve.arrays import Images, Probabilities

SHAPE = (8, 8, 1)
LABELS = ["top", "upper", "lower", "bottom"]


def weights(seed: int = 0) -> npt.NDArray[np.float32]:
    """float32 [pixels, classes]."""
    rng = np.random.default_rng(seed)
    stripes = np.repeat(np.eye(4), 16, axis=0) / 16
    return np.asarray(stripes * 6 + rng.normal(0, 0.05, (64, 4)), np.float32)


def reference(images: Images, seed: int = 0) -> Probabilities:
    """What the model answers, in NumPy."""
    logits = (images.reshape(len(images), -1).astype(np.float32) / 255) @ weights(seed)
    scaled = np.exp(logits - logits.max(1, keepdims=True))
    return np.asarray(scaled / scaled.sum(1, keepdims=True), np.float32)


def onnx_bytes(seed: int = 0) -> bytes:
    """The model as an ONNX file."""
    nodes = [
        helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["float", "scale"], ["scaled"]),
        helper.make_node("Reshape", ["scaled", "flat"], ["pixels"]),
        helper.make_node("MatMul", ["pixels", "weights"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=-1),
    ]
    graph = helper.make_graph(
        nodes,
        "stripes",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", *SHAPE])],
        [
            helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", len(LABELS)]),
            helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["N", len(LABELS)]),
        ],
        [
            numpy_helper.from_array(np.float32(1 / 255), "scale"),
            numpy_helper.from_array(np.array([-1, 64], np.int64), "flat"),
            numpy_helper.from_array(weights(seed), "weights"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def random_images(count: int, seed: int = 1) -> Images:
    """uint8 [count, 8, 8, 1]."""
    return np.random.default_rng(seed).integers(0, 256, (count, *SHAPE), dtype=np.uint8)


def write_version(repository: Path, model: str = "stripes", version: int = 1, *, seed: int = 0) -> Path:
    """Publish a version of the small model. Returns its directory."""
    directory = repository / model / str(version)
    directory.mkdir(parents=True)
    (directory / m.ONNX_FILE).write_bytes(onnx_bytes(seed))
    images = random_images(16)
    session = ort.InferenceSession(onnx_bytes(seed), providers=["CPUExecutionProvider"])
    logits, probabilities = session.run(["logits", "probabilities"], {"image": images})
    np.savez(directory / m.GOLDEN_FILE, image=images, logits=logits, probabilities=probabilities)
    seal(directory, model, version)
    return directory


def seal(directory: Path, model: str = "stripes", version: int = 1) -> None:
    """Write the manifest for whatever lies in the directory now."""
    parity = m.Parity(images=16, max_abs_diff_probabilities=0, max_abs_diff_logits=0, top1_disagreements=0)
    m.write(
        directory,
        m.Manifest(
            schema_version=m.SCHEMA_VERSION,
            model=model,
            version=version,
            created="2026-01-01T00:00:00Z",
            labels=LABELS,
            input=m.InputSpec(height=8, width=8, channels=1),
            decode=m.DecodePolicy(),
            training=m.Training(
                preset="by-hand", config={}, architecture={}, seed=0, parameters=256, epochs=0, seconds=0
            ),
            dataset=m.Dataset(name="noise", train_images=16, validation_images=0, test_images=16, digests={}),
            metrics={"accuracy": 1.0},
            parity={"onnx": parity},
            golden=m.Golden(count=16, tolerances={"cpu": 1e-5}),
            statistics=m.InputStatistics(
                channel_mean=[127.5],
                channel_std=[73.9],
                image_mean_histogram=[0.0] * 15 + [0.5] * 2 + [0.0] * 15,
                image_std_histogram=[0.0] * 17 + [0.5] * 2 + [0.0] * 13,
                class_share=[0.25] * 4,
            ),
            frameworks={"onnxruntime": ort.__version__},
            files=m.digest_files(directory),
        ),
    )
