"""Our definitions of the foreign dialects live beside those of others."""

from __future__ import annotations

import importlib.util
import subprocess
import sys

import pytest


@pytest.mark.parametrize("first", ["tensorflow", "convserve.server.app"])
def test_tensorflow_loads_in_the_same_process(first: str) -> None:
    """In either order: the TensorFlow runtime is imported after the servicers, embedders may do it before."""
    if importlib.util.find_spec("tensorflow") is None:
        pytest.skip("TensorFlow is not installed")
    code = (
        f"import {first}, convserve.server.app, tensorflow\n"
        "from convserve.tensorflow_core.v1 import tensor_pb2\n"
        "theirs = tensorflow.make_tensor_proto([[1, 2]], dtype=tensorflow.uint8)\n"
        "ours = tensor_pb2.TensorProto.FromString(theirs.SerializeToString())\n"
        "assert (ours.dtype, ours.tensor_content) == (tensor_pb2.DT_UINT8, bytes([1, 2]))\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=110)
    assert ended.returncode == 0, ended.stderr
