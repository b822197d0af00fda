"""The two files beside the versions that let Triton load the repository as it is.

Source: Triton's model_configuration.md; the message is `inference.ModelConfig` in model_config.proto.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from convserve.manifest import INPUT_NAME, LOGITS_NAME, PROBABILITIES_NAME, InputSpec

CONFIG_FILE = "config.pbtxt"
LABELS_FILE = "labels.txt"
MAX_BATCH_SIZE = 64


def labels_text(labels: Sequence[str]) -> str:
    """Make `labels.txt`: one label for each line, in the order of their index."""
    return "".join(f"{label}\n" for label in labels)


def config_text(model: str, spec: InputSpec, classes: int) -> str:
    """Make `config.pbtxt`. The batch dimension is left out of `dims`, as Triton wants it of models that batch."""
    outputs = ",\n".join(
        f"""  {{
    name: {json.dumps(name)}
    data_type: TYPE_FP32
    dims: [ {classes} ]
    label_filename: {json.dumps(LABELS_FILE)}
  }}"""
        for name in (LOGITS_NAME, PROBABILITIES_NAME)
    )
    return f"""name: {json.dumps(model)}
platform: "onnxruntime_onnx"
max_batch_size: {MAX_BATCH_SIZE}
input [
  {{
    name: {json.dumps(INPUT_NAME)}
    data_type: TYPE_UINT8
    dims: [ {", ".join(map(str, spec.shape))} ]
  }}
]
output [
{outputs}
]
dynamic_batching {{ }}
"""
