"""A published version is a valid one for other servers, and loads without a line of ours."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

MODELS = Path(__file__).parents[2] / "models"
MODEL_DIRECTORIES = sorted(path for path in MODELS.iterdir() if path.is_dir())
VERSIONS = sorted(path.parent for path in MODELS.glob("*/*/manifest.json"))

ONNX = """
import sys
import numpy as np, onnxruntime
golden = np.load(sys.argv[1] + "/golden.npz")
session = onnxruntime.InferenceSession(sys.argv[1] + "/model.onnx", providers=["CPUExecutionProvider"])
(found,) = session.run(["probabilities"], {"image": golden["image"]})
assert np.abs(found - golden["probabilities"]).max() < 1e-5
assert "convserve" not in sys.modules and "convtrain" not in sys.modules
"""
SAVED_MODEL = """
import sys
import numpy as np, tensorflow as tf
for version in sys.argv[1:]:
    golden = np.load(version + "/golden.npz")
    signature = tf.saved_model.load(version).signatures["serving_default"]
    found = signature(image=tf.constant(golden["image"]))
    assert set(found) == {"logits", "probabilities"}
    assert np.abs(found["probabilities"].numpy() - golden["probabilities"]).max() < 1e-4, version
assert "convserve" not in sys.modules and "convtrain" not in sys.modules
"""
WARMUP = """
import sys
sys.path.append(sys.argv[1])
from pathlib import Path
import numpy as np, tensorflow as tf
from tensorflow_serving.apis import prediction_log_pb2
for version in sys.argv[2:]:
    golden = np.load(version + "/golden.npz")
    signatures = tf.saved_model.load(version).signatures
    sizes = []
    for record in tf.data.TFRecordDataset(version + "/assets.extra/tf_serving_warmup_requests"):
        log = prediction_log_pb2.PredictionLog.FromString(record.numpy())
        assert log.WhichOneof("log_type") == "predict_log"
        request = log.predict_log.request
        assert request.model_spec.name == Path(version).parent.name and not request.model_spec.HasField("version")
        inputs = {name: tf.constant(tf.make_ndarray(tensor)) for name, tensor in request.inputs.items()}
        found = signatures[request.model_spec.signature_name](**inputs)["probabilities"].numpy()
        assert np.abs(found - golden["probabilities"][: len(found)]).max() < 1e-4, version
        sizes.append(len(found))
    assert sizes == [1, len(golden["image"])], (version, sizes)
assert "convserve" not in sys.modules and "convtrain" not in sys.modules
"""
TRITON_CONFIG = """
import json, sys
from google.protobuf import json_format, text_format
from tritonclient.grpc import model_config_pb2
config = text_format.Parse(open(sys.argv[1]).read(), model_config_pb2.ModelConfig())
print(json_format.MessageToJson(config, preserving_proto_field_name=True))
"""


def run(python: str | Path, code: str, *arguments: str | Path) -> str:
    ended = subprocess.run(
        [python, "-c", code, *arguments], capture_output=True, text=True, check=False, timeout=110, env={"PATH": ""}
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


@pytest.mark.parametrize("version", VERSIONS, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_onnx_by_plain_onnxruntime(version: Path) -> None:
    """The answers are the golden ones."""
    run(sys.executable, ONNX, version)


def test_saved_models_by_plain_tensorflow() -> None:
    """At the root of the version, with the signature that TensorFlow Serving calls; the answers are the golden ones."""
    if importlib.util.find_spec("tensorflow") is None:
        pytest.skip("TensorFlow is not installed")
    run(sys.executable, SAVED_MODEL, *VERSIONS)


@pytest.mark.timeout(400)  # the first run installs the client
def test_warmup_requests(environment_of: Callable[[str], Path]) -> None:
    """TensorFlow reads the records; they are TensorFlow Serving's message, and calls that the SavedModel answers."""
    if importlib.util.find_spec("tensorflow") is None:
        pytest.skip("TensorFlow is not installed")
    (packages,) = environment_of("tensorflow-serving").parents[1].glob("lib/python*/site-packages")
    run(sys.executable, WARMUP, packages, *VERSIONS)


@pytest.mark.timeout(400)  # the first run installs the client
@pytest.mark.parametrize("model", MODEL_DIRECTORIES, ids=lambda path: path.name)
def test_triton_configuration(environment_of: Callable[[str], Path], model: Path) -> None:
    """Triton's own parser reads it; names, types, shapes and labels are the manifest's."""
    config = json.loads(run(environment_of("triton"), TRITON_CONFIG, model / "config.pbtxt"))
    versions = [version for version in VERSIONS if version.parent == model]
    manifest = json.loads((versions[-1] / "manifest.json").read_text())
    assert (config["name"], config["platform"]) == (model.name, "onnxruntime_onnx")
    assert config["max_batch_size"] > 1
    assert "dynamic_batching" in config
    shape = [manifest["input"][name] for name in ("height", "width", "channels")]
    (tensor,) = config["input"]
    assert (tensor["name"], tensor["data_type"], list(map(int, tensor["dims"]))) == ("image", "TYPE_UINT8", shape)
    assert {output["name"] for output in config["output"]} == {"logits", "probabilities"}
    assert {output["label_filename"] for output in config["output"]} == {"labels.txt"}
    assert (model / "labels.txt").read_text().splitlines() == manifest["labels"]
    assert all((version / "model.onnx").is_file() for version in versions)
