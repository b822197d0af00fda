"""Many images are run in batches that fit into memory."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from convtrain import backend
from convtrain.predictions import from_keras, from_session


class Session:
    """Answers with the first pixel, and remembers how many images came at once."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def run(self, _: list[str], inputs: dict[str, Any]) -> tuple[Any, Any]:
        images = inputs["image"]
        self.sizes.append(len(images))
        return images[:, 0, 0], images[:, 0, 0]


@pytest.mark.parametrize(
    ("side", "sizes"), [(8, [500, 100]), (64, [500, 100]), (512, [7] * 85 + [5]), (2048, [1] * 600)]
)
def test_large_images_come_in_small_batches(side: int, sizes: list[int]) -> None:
    """So that the maps of the first layers, which are as large as the images, do not fill the memory."""
    numbers = (np.arange(600) % 256).astype(np.uint8)
    images = np.broadcast_to(numbers[:, None, None, None], (600, side, side, 1))
    session = Session()
    found = from_session(session, images)
    assert session.sizes == sizes
    np.testing.assert_array_equal(found.logits[:, 0], numbers)


@pytest.mark.training
def test_a_full_device_is_a_full_memory() -> None:
    """Measuring takes batches of its own, which may be larger than those of training were."""

    def model(batch: Any, *, training: bool) -> Any:
        raise backend.tensorflow().errors.ResourceExhaustedError(None, None, "OOM when allocating\nmore")

    with pytest.raises(MemoryError, match=r"OOM when allocating$"):
        from_keras(model, np.zeros((1, 8, 8, 1), np.uint8))
