"""Names for the arrays that travel through the system."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Images: TypeAlias = npt.NDArray[np.uint8]
"""uint8 [N, height, width, channels], C-contiguous, samples 0..255."""

Logits: TypeAlias = npt.NDArray[np.float32]
"""float32 [N, classes], before softmax and before the calibration temperature."""

Probabilities: TypeAlias = npt.NDArray[np.float32]
"""float32 [N, classes], rows sum to 1."""


def top_k(probabilities: Probabilities, k: int) -> npt.NDArray[np.intp]:
    """Indices of the `k` most probable classes of each row, int [N, min(k, classes)].

    Highest probability first; equal ones in the order of their index.
    """
    if k == 1:
        best: npt.NDArray[np.intp] = probabilities.argmax(axis=1)[:, None]
        return best
    return np.argsort(-probabilities, axis=1, kind="stable")[:, :k]


def best(probabilities: Probabilities, k: int) -> tuple[list[list[int]], list[list[float]]]:
    """The `k` most probable classes of each row as `top_k` orders them, and their probabilities, as lists."""
    if k == 1:  # what nearly everybody asks for; indexing by arrays takes NumPy ten times as long
        classes = probabilities.argmax(axis=1).tolist()
        return [[index] for index in classes], [
            [row.item(index)] for row, index in zip(probabilities, classes, strict=True)
        ]
    indices = top_k(probabilities, k)
    return indices.tolist(), np.take_along_axis(probabilities, indices, axis=1).tolist()
