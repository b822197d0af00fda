"""Exporting the trained model as SavedModel and ONNX, proved equal before anyone sees the files."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any

import msgspec

from convserve import manifest
from convserve.arrays import Images
from convserve.manifest import INPUT_NAME, LOGITS_NAME, ONNX_FILE, PROBABILITIES_NAME, InputSpec
from convtrain import backend, parity
from convtrain.errors import ExportError
from convtrain.predictions import Predictions, onnx_session

OPSET = 18
"""Highest opset that tf2onnx 1.17 knows."""


class ExportRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What was proved of exported files."""

    weights_sha256: str
    """Digest of the weights that were exported."""
    files: dict[str, str]
    """SHA-256 of every exported file, by relative path."""
    parity: dict[str, manifest.Parity]
    """Agreement with the trained model over the whole test split, by form."""


def export(model: Any, directory: Path, trained: Predictions, images: Images, weights_sha256: str) -> ExportRecord:
    """Write `directory` with both forms of the model, after proving them.

    The files are made in a directory beside and get their place after they passed; an older export is replaced.

    Args:
        model: from `network.build`, with trained weights.
        directory: where to put the files.
        trained: what the model says about `images`.
        images: the whole test split.
        weights_sha256: digest of the model's weights.

    Raises:
        ParityError: a form disagrees with the trained model; names it, the image and by how much.
        ExportError: a file is not what a server can run, or cannot be written.
    """
    partial = directory.with_name(f".{directory.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        write_saved_model(model, partial)
        write_onnx(model, partial / ONNX_FILE)
        proof = parity.prove(partial, trained, images)
        shutil.rmtree(directory, ignore_errors=True)
        partial.replace(directory)
    except OSError as error:
        reason = error.strerror or error
        raise ExportError(f"{directory}: cannot be written ({reason}); nothing was exported") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return ExportRecord(weights_sha256=weights_sha256, files=manifest.digest_files(directory), parity=proof)


def write_saved_model(model: Any, directory: Path) -> None:
    """Write a SavedModel with the one signature `serving_default`, from `image` to `logits` and `probabilities`.

    It holds nothing of Keras: TensorFlow alone loads it.
    """
    tf = backend.tensorflow()
    module = tf.Module()
    module.weights = [weight.value for weight in model.weights]
    module.serve = _serving_function(model)
    with backend.disk_errors():
        tf.saved_model.save(module, str(directory), signatures={"serving_default": module.serve})


def write_onnx(model: Any, path: Path) -> None:
    """Write an ONNX file with input `image` [N, H, W, C] and outputs `logits` and `probabilities` [N, classes].

    Raises:
        ExportError: the file is not valid or onnxruntime cannot run it.
    """
    import onnx

    tf2onnx = backend.tf2onnx()
    logging.getLogger("tf2onnx").setLevel(logging.ERROR)
    function = _serving_function(model)
    proto, _ = tf2onnx.convert.from_function(function, function.input_signature, opset=OPSET)
    _clean(proto.graph)
    onnx.save(proto, path)
    check_onnx(path, InputSpec(**dict(zip(("height", "width", "channels"), model.input_shape[1:], strict=True))))


def check_onnx(path: Path, spec: InputSpec) -> None:
    """Check that an ONNX file is valid, takes and gives what it should, holds only standard operators, and runs.

    Raises:
        ExportError: it does not.
    """
    import onnx

    try:
        onnx.checker.check_model(path, full_check=True)
        proto = onnx.load(path)
        session = onnx_session(path)
    except Exception as error:  # both libraries raise classes of their own that share no base
        raise ExportError(f"{path}: not a valid ONNX file: {error}") from error
    if foreign := sorted({node.op_type for node in proto.graph.node if node.domain not in ("", "ai.onnx")}):
        raise ExportError(f"{path}: holds operators outside the ONNX standard: {', '.join(foreign)}")
    inputs = {node.name: (node.type, list(node.shape)) for node in session.get_inputs()}
    outputs = {node.name: (node.type, node.shape[0], len(node.shape)) for node in session.get_outputs()}
    if inputs != {INPUT_NAME: ("tensor(uint8)", ["N", *spec.shape])}:
        raise ExportError(f"{path}: inputs are {inputs}")
    if outputs != dict.fromkeys((LOGITS_NAME, PROBABILITIES_NAME), ("tensor(float)", "N", 2)):
        raise ExportError(f"{path}: outputs are {outputs}")


def _serving_function(model: Any) -> Any:
    """The `tf.function` behind both forms."""
    tf = backend.tensorflow()
    signature = [tf.TensorSpec(model.input_shape, tf.uint8, name=INPUT_NAME)]

    @tf.function(input_signature=signature)  # type: ignore[untyped-decorator, unused-ignore]
    def serve(image: Any) -> dict[str, Any]:
        outputs = model(image, training=False)
        # tf2onnx takes the tensors' names, which would be `Identity:0` and `Identity_1:0`.
        return {name: tf.identity(outputs[name], name=name) for name in (LOGITS_NAME, PROBABILITIES_NAME)}

    return serve


def _clean(graph: Any) -> None:
    """Call the batch dimension `N` everywhere; tf2onnx numbers it anew in every place."""
    for value in (*graph.input, *graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "N"
    del graph.value_info[:]  # inner shapes under the old names
    graph.ClearField("doc_string")  # the number of the function in this process
