"""What the client's calls return."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Prediction:
    """One class and how probable it is."""

    label: str
    """The class's name, from the model's labels."""
    index: int
    """The class's position in the model's output, from 0."""
    probability: float
    """Probability of the class, 0 to 1."""


@dataclass(frozen=True, slots=True)
class BatchInfo:
    """How the batch ran that an image was in. Times are seconds."""

    request_rows: int
    """Rows of this request in the batch."""
    rows: int
    """Rows of all requests in the batch."""
    padded_rows: int
    """Rows the model computed, padding included."""
    release_reason: str
    """Why the batch was released: `full`, `window`, `idle`, `deadline`, `drain`, or `unspecified`."""
    queue_seconds: float
    """From the arrival of the request in the queue to the start of the batch's execution."""
    batch_wait_seconds: float
    """From the arrival of the batch's first row to its release."""
    run_seconds: float
    """What the model took."""
    provider: str
    """What computed, such as `CPUExecutionProvider`."""
    variant: str
    """The variant of the version that ran: `fp32`, `optimized` or `int8`."""
    model_digest: str
    """SHA-256 of the version's manifest in hexadecimal digits."""


@dataclass(frozen=True, slots=True)
class Classification:
    """What the model saw in one image."""

    top: tuple[Prediction, ...]
    """The most probable classes, at least one, highest probability first."""
    model: str
    """The model that answered."""
    model_version: int
    """The version that answered."""
    decoding: tuple[str, ...]
    """What the server did to an image file, in order, such as `resized 640x480 to 32x32`. Empty: nothing."""
    batch: BatchInfo | None
    """How the batch ran that the image was in; None unless asked to explain."""
    request_id: str
    """Id of the request in the server's logs."""

    @property
    def label(self) -> str:
        """Name of the most probable class."""
        return self.top[0].label

    @property
    def index(self) -> int:
        """Position of the most probable class in the model's output."""
        return self.top[0].index

    @property
    def probability(self) -> float:
        """Probability of the most probable class, 0 to 1."""
        return self.top[0].probability


@dataclass(frozen=True, slots=True)
class VersionInfo:
    """One version of a model."""

    version: int
    """The version number, 1 or higher."""
    state: str
    """`loading`, `warming`, `available`, `draining`, `unloaded`, `failed`, or `unspecified`."""
    reason: str
    """Why the version is in this state; set for failed versions."""
    digest: str
    """SHA-256 of the manifest in hexadecimal digits. Empty until read."""
    input_shape: tuple[int, ...]
    """Shape of one packed image: (height, width, channels). Empty until the manifest was read."""
    labels: tuple[str, ...]
    """Class names in the order of the output's index. Empty until the manifest was read."""
    metrics: Mapping[str, float]
    """Figures measured on the test split, by name, such as `accuracy`. Empty until read."""
    dataset: str
    """The data set that `metrics` were measured on."""
    preset: str
    """The training preset."""
    provider: str
    """What computes. Empty unless the version is available."""
    max_batch_size: int
    """The largest batch the server forms for the version, in rows. 0 unless available."""


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """A model and its versions."""

    name: str
    """Name of the model."""
    versions: tuple[VersionInfo, ...]
    """All versions found, highest first."""
    default_version: int | None
    """The version that answers a request which names none; None when none is available."""
    aliases: Mapping[str, int]
    """Aliases such as `stable`, and the version each stands for."""
