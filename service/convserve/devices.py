"""Names of what can compute a model; a file of its own, so that settings know them without loading any of it."""

from __future__ import annotations

from typing import Literal, TypeAlias

Device: TypeAlias = Literal["cpu", "cuda", "tensorrt"]
"""What a model computes on."""

RuntimeName: TypeAlias = Literal["onnxruntime", "tensorflow"]
"""The library that computes it."""
