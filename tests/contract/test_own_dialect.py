"""Our own API and client in all their forms, on the images that the foreign clients send."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest

import convserve
from support.server import ServerProcess

Images = npt.NDArray[np.uint8]
Probabilities = npt.NDArray[np.float64]


def probabilities(answers: Sequence[convserve.Classification]) -> Probabilities:
    """In the order of the classes."""
    return np.array([[one.probability for one in sorted(answer.top, key=lambda one: one.index)] for answer in answers])


@pytest.mark.parametrize("model", ["mnist", "cifar10"])
@pytest.mark.parametrize("form", ["packed", "files", "one by one", "asyncio"])
def test_equal_answers(
    server: ServerProcess,
    images: dict[str, Images],
    files: dict[str, list[bytes]],
    expected: dict[str, Probabilities],
    model: str,
    form: str,
) -> None:
    """200 real images in every form: the same most probable class, and probabilities to 1e-6."""
    given = {"packed": list(images[model]), "one by one": list(images[model])}.get(form, files[model])
    if form == "asyncio":
        answers = asyncio.run(classify_at_once(server.target, model, files[model]))
    else:
        with convserve.Client(server.target) as client:
            if form == "one by one":
                answers = [client.classify(image, model=model, top_k=10) for image in given]
            else:
                answers = client.classify_batch(given, model=model, top_k=10)
    values = probabilities(answers)
    assert values.shape == expected[model].shape == (200, 10)
    assert (values.argmax(1) == expected[model].argmax(1)).all()
    assert np.abs(values - expected[model]).max() <= 1e-6


async def classify_at_once(target: str, model: str, files: list[bytes]) -> list[convserve.Classification]:
    """Single calls, all at the same time."""
    async with convserve.AsyncClient(target) as client:
        return await asyncio.gather(*(client.classify(file, model=model, top_k=10) for file in files))
