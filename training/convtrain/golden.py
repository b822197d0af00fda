"""The golden vectors of a published version, which may have been made by another program or be damaged."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from convserve.arrays import Images, Probabilities
from convserve.errors import ArtifactError
from convserve.manifest import GOLDEN_FILE, Manifest
from convtrain import files


class Golden(NamedTuple):
    """Real inputs and the probabilities they must give, row for row."""

    images: Images
    probabilities: Probabilities


def read(directory: Path, content: Manifest) -> Golden:
    """Read the golden vectors of the version in `directory`, whose manifest is `content`.

    Raises:
        ArtifactError: the file cannot be read, or holds other arrays than the manifest says.
    """
    path = directory / GOLDEN_FILE
    try:
        arrays = files.read_arrays(path, ["image", "probabilities"])
    except (OSError, KeyError, ValueError) as error:
        raise ArtifactError(f"{path}: cannot be read as golden vectors: {error}") from error
    golden, count = Golden(arrays["image"], arrays["probabilities"]), content.golden.count
    wanted = [
        (np.dtype(np.uint8), (count, *content.input.shape)),
        (np.dtype(np.float32), (count, len(content.labels))),
    ]
    actual = [(array.dtype, array.shape) for array in golden]
    if actual != wanted:
        raise ArtifactError(f"{path}: holds {actual}; the manifest wants {wanted}")
    return golden
