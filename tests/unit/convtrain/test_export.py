"""Both exported forms say what the trained model says, or there is no export."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from convserve import manifest
from convserve.manifest import InputSpec
from convtrain import backend, export, network, parity
from convtrain.architectures import (
    Activate,
    Activation,
    Architecture,
    BatchNorm,
    Conv,
    Dense,
    Dropout,
    Flatten,
    GlobalPool,
    Layer,
    Normalization,
    Pool,
    Residual,
    SeparableConv,
    Whiten,
)
from convtrain.datasets import Dataset
from convtrain.errors import ExportError, ParityError
from convtrain.predictions import Predictions, from_keras
from support import versions

pytestmark = pytest.mark.training

COLOUR = InputSpec(height=32, width=32, channels=3)

RARE: tuple[Activation, ...] = ("leaky_relu", "elu", "silu", "tanh", "sigmoid")

NETWORKS: dict[str, tuple[Layer, ...]] = {
    "plain": (Conv(filters=4, padding="valid"), Pool(), Flatten(), Dense(units=8)),
    "strided": (Conv(filters=4, strides=2), Conv(filters=4, strides=2, kernel_size=5), GlobalPool(kind="max")),
    "dilated": (
        Conv(filters=4, dilation_rate=2),
        Pool(kind="average", size=3, strides=2, padding="same"),
        GlobalPool(),
    ),
    "separable": (SeparableConv(filters=6, batch_norm=True), SeparableConv(filters=6, strides=2), GlobalPool()),
    "regularized": (Conv(filters=4, l2=0.1), Dropout(rate=0.5), Flatten(), Dense(units=5, batch_norm=True)),
    "loose": (Conv(filters=4, activation="linear"), BatchNorm(), Activate(activation="gelu"), Flatten()),
    "residual": (
        Whiten(activation="silu"),
        Conv(filters=6, pool=2, batch_norm=True),
        Residual(layers=(Conv(filters=6), Conv(filters=6, batch_norm=True)), activation="silu"),
        GlobalPool(kind="max"),
    ),
    "rare": (*(Conv(filters=3, activation=activation) for activation in RARE), Flatten()),
}


def random_weights(model: Any) -> Any:
    """Weights as after training: none of them zero or one, so that none can be left out."""
    rng = np.random.default_rng(0)
    for weight in model.weights:
        noise = rng.normal(0, 0.1, weight.shape)
        weight.assign(np.abs(noise) + 0.5 if "variance" in weight.path or "gamma" in weight.path else noise)
    return model


@pytest.fixture
def images(cifar10_sample: Dataset) -> Any:
    """Real photographs, not a multiple of any batch size."""
    return cifar10_sample.test.images[:97]


@pytest.mark.parametrize("name", NETWORKS)
def test_every_layer_is_exported_faithfully(name: str, images: Any, tmp_path: Path) -> None:
    """All kinds of layers pass the gate in both forms, and the ONNX file is named as servers expect."""
    normalization = Normalization(mean=(125.0, 123.0, 114.0), std=(63.0, 62.0, 67.0))
    architecture = Architecture(layers=NETWORKS[name], normalization=normalization)
    model = random_weights(network.build(architecture, COLOUR, 10, temperature=1.5))
    record = export.export(model, tmp_path / "export", from_keras(model, images), images, "digest")
    assert {form: proof.images for form, proof in record.parity.items()} == {"saved_model": 97, "onnx": 97}
    assert record.files.keys() >= {"model.onnx", "saved_model.pb", "variables/variables.index"}
    graph = onnx.load(tmp_path / "export/model.onnx").graph
    assert [value.name for value in graph.input] == ["image"]
    assert {value.name for value in graph.output} == {"logits", "probabilities"}
    # A batch size asked for at run time would show as Shape.
    assert not {node.op_type for node in graph.node} & {"Shape", "Gather", "Loop", "If"}
    assert not graph.doc_string  # tf2onnx puts in what TensorFlow called the function in this process
    assert sorted(path.name for path in tmp_path.iterdir()) == ["export"]


def test_the_saved_model_needs_nothing_of_ours(images: Any, tmp_path: Path) -> None:
    """One signature, from `image` to `logits` and `probabilities`, any batch size."""
    model = random_weights(network.build(Architecture(layers=(GlobalPool(),)), COLOUR, 10))
    export.write_saved_model(model, tmp_path)
    tf = backend.tensorflow()
    loaded = tf.saved_model.load(str(tmp_path))
    assert list(loaded.signatures) == ["serving_default"]
    signature = loaded.signatures["serving_default"]
    (spec,) = signature.structured_input_signature[1].values()
    assert (spec.name, spec.dtype, spec.shape.as_list()) == ("image", tf.uint8, [None, 32, 32, 3])
    for count in (1, 5):
        outputs = signature(image=tf.constant(images[:count]))
        assert {name: value.shape.as_list() for name, value in outputs.items()} == {
            "logits": [count, 10],
            "probabilities": [count, 10],
        }


@pytest.fixture
def model() -> Any:
    layers = (Conv(filters=4), Pool(), Flatten(), Dense(units=8))
    return random_weights(network.build(Architecture(layers=layers), COLOUR, 10))


def test_an_altered_weight_fails_the_gate(
    model: Any, images: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the ONNX file is not the trained model, it is named, and neither form is left behind."""
    write = export.write_onnx

    def write_altered(trained: Any, path: Path) -> None:
        write(trained, path)
        proto = onnx.load(path)
        (weight,) = [tensor for tensor in proto.graph.initializer if list(tensor.dims) == [8, 10]]
        values = onnx.numpy_helper.to_array(weight).copy()
        values[3, 7] += 0.01
        weight.CopyFrom(onnx.numpy_helper.from_array(values, weight.name))
        onnx.save(proto, path)

    monkeypatch.setattr(export, "write_onnx", write_altered)
    with pytest.raises(ParityError, match=r"onnx: image \d+: a probability differs by"):
        export.export(model, tmp_path / "export", from_keras(model, images), images, "")
    assert list(tmp_path.iterdir()) == []


def test_a_failed_export_leaves_the_one_before(model: Any, images: Any, tmp_path: Path) -> None:
    """What was proved stays until something else is proved."""
    trained = from_keras(model, images)
    before = export.export(model, tmp_path / "export", trained, images, "")
    changed = Predictions(trained.logits, trained.probabilities + np.float32(1e-3))
    with pytest.raises(ParityError, match="saved_model: image"):
        export.export(model, tmp_path / "export", changed, images, "")
    assert manifest.digest_files(tmp_path / "export") == before.files


def test_a_form_that_is_no_model_is_refused(tmp_path: Path) -> None:
    """Not an ONNX file, other names, other shapes, operators that other servers do not have."""
    path = tmp_path / "model.onnx"
    stripes = InputSpec(height=8, width=8, channels=1)
    path.write_bytes(versions.onnx_bytes())
    export.check_onnx(path, stripes)
    with pytest.raises(ExportError, match=r"model\.onnx: inputs are"):
        export.check_onnx(path, COLOUR)
    proto = onnx.load(path)
    proto.graph.output[0].name = "scores"
    proto.graph.node[3].output[0] = proto.graph.node[4].input[0] = "scores"
    onnx.save(proto, path)
    with pytest.raises(ExportError, match=r"outputs are .*scores"):
        export.check_onnx(path, stripes)
    path.write_bytes(b"no model")
    with pytest.raises(ExportError, match="not a valid ONNX file"):
        export.check_onnx(path, stripes)


def test_the_gate_is_as_tight_as_promised() -> None:
    """The figure is part of what is published."""
    assert parity.MAX_DIFFERENCE == 1e-5
