"""Images to requests, replies to results. No channel in here: every kind of client shares it."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from convserve.client.results import BatchInfo, Classification, ModelInfo, Prediction, VersionInfo
from convserve.errors import InternalError, InvalidRequestError
from convserve.v1 import classification_pb2 as pb
from convserve.v1 import model_pb2

MAX_ROWS = 64
"""Most images in one RPC: a full batch of the server's default settings, far below what its queue takes."""

_OVERHEAD_BYTES = 4096
"""Room in a message for everything but images."""

_IMAGE_OVERHEAD_BYTES = 16
"""Room in a message for the tag and the length of one image."""


_RELEASE_REASONS = {value: name.removeprefix("RELEASE_REASON_").lower() for name, value in pb.ReleaseReason.items()}
_STATES = {value: name.removeprefix("VERSION_STATE_").lower() for name, value in model_pb2.VersionState.items()}
_UNSPECIFIED = "unspecified"  # also for values that only a newer server knows


class Readable(Protocol):
    """A file object open for reading bytes."""

    def read(self) -> bytes:
        """Return the rest of the file."""


class ArrayLike(Protocol):
    """A numpy array, a Pillow image, or anything else that speaks numpy's array interface."""

    @property
    def __array_interface__(self) -> dict[str, Any]:
        """Describe the array's memory."""


ImageLike: TypeAlias = str | os.PathLike[str] | bytes | bytearray | memoryview | Readable | ArrayLike
"""One image: the path of an image file, its bytes, a file object, a Pillow image, or a uint8 array [H, W] or [H, W, C].

Files and Pillow images may have any size and mode; the server brings them to the model's. Arrays must have the model's
shape: they travel as they are.
"""

Pixels: TypeAlias = npt.NDArray[np.uint8]
"""uint8 [height, width, channels], C-contiguous."""


@dataclass(frozen=True)
class Options:
    """What a caller wants of a classification."""

    model: str
    """Name of the model."""
    version: int | str | None
    """A version number, an alias, or None for the server's choice. A string of digits is a number."""
    top_k: int
    """Classes to return for each image."""
    explain: bool
    """Whether the reply tells how its batches ran."""

    def request(self) -> pb.ClassifyRequest:
        """Make a request without images.

        Raises:
            InvalidRequestError: a value that cannot travel.
        """
        if not 0 <= self.top_k < 2**32:
            raise InvalidRequestError.of("top_k", f"{self.top_k} came; it is the number of classes to return")
        request = pb.ClassifyRequest(model=self.model, top_k=self.top_k, explain=self.explain)
        if isinstance(self.version, str) and not self.version.isdecimal():
            request.alias = self.version
        elif self.version is not None:
            number = int(self.version)
            if not 1 <= number < 2**63:
                raise InvalidRequestError.of("version", f"{self.version} came; versions are 1 or higher")
            request.version = number
        return request


@dataclass(frozen=True)
class Chunk:
    """Images that travel in one RPC."""

    first: int
    """Position of its first image among all images of the call."""
    rows: int
    """Images in it."""
    request: pb.ClassifyRequest
    """The message."""


def chunks(images: Iterable[ImageLike], options: Options, max_message_bytes: int) -> Iterator[Chunk]:
    """Put images into as few requests as the limits allow, in order. Images are read when their request is made.

    Raises:
        InvalidRequestError: something is no image, or too large for a message; names its position.
        OSError: a file cannot be read.
    """
    if isinstance(images, str | os.PathLike | bytes | bytearray | memoryview):
        raise InvalidRequestError.of(
            "images", f"is one {type(images).__name__}; give a list of images, or use classify"
        )
    budget = max_message_bytes - _OVERHEAD_BYTES
    waiting: list[bytes | Pixels] = []
    waiting_bytes = first = 0
    for index, image in enumerate(images):
        loaded = load(image, index)
        size = (len(loaded) if isinstance(loaded, bytes) else loaded.nbytes) + _IMAGE_OVERHEAD_BYTES
        if size > budget:
            raise InvalidRequestError.of(
                f"images[{index}]", f"takes {size:,} bytes; one message carries {budget:,} (max_message_bytes)"
            )
        if waiting and not (_alike(waiting[0], loaded) and len(waiting) < MAX_ROWS and waiting_bytes + size <= budget):
            yield _chunk(first, waiting, options)
            waiting, waiting_bytes, first = [], 0, index
        waiting.append(loaded)
        waiting_bytes += size
    if waiting:
        yield _chunk(first, waiting, options)


def load(image: ImageLike, index: int) -> bytes | Pixels:
    """Read one image: bytes of a file for the server to decode, or pixels that travel as they are.

    Raises:
        InvalidRequestError: this is no image; the field is `images[index]`.
        OSError: the file cannot be read.
    """
    if isinstance(image, str | os.PathLike):
        return Path(image).read_bytes()
    if isinstance(image, bytes | bytearray | memoryview):
        return bytes(image)
    pillow = sys.modules.get("PIL.Image")  # whoever holds a Pillow image has imported it
    if pillow is not None and isinstance(image, pillow.Image):
        return _encode_pillow(image, pillow, index)
    if hasattr(image, "__array_interface__") or hasattr(image, "__array__"):
        return _pixels(np.asarray(image), index)
    if hasattr(image, "read"):
        content = image.read()
        if isinstance(content, bytes):
            return content
        raise InvalidRequestError.of(f"images[{index}]", "is a file open for text; open it with mode 'rb'")
    raise InvalidRequestError.of(
        f"images[{index}]",
        f"is a {type(image).__name__}; give a path, bytes, a file object, a Pillow image or a uint8 array",
    )


def _pixels(array: npt.NDArray[Any], index: int) -> Pixels:
    if array.dtype != np.uint8:
        hint = ": (x * 255).round().astype(numpy.uint8) if it is 0 to 1" if array.dtype.kind == "f" else ""
        raise InvalidRequestError.of(
            f"images[{index}]", f"is an array of {array.dtype}; pixels are uint8, 0 to 255, so convert it{hint}"
        )
    if array.ndim == 2:
        array = array[:, :, None]
    if array.ndim != 3 or array.size == 0:
        hint = "; several images go to classify_batch" if array.ndim == 4 else ""
        raise InvalidRequestError.of(
            f"images[{index}]",
            f"is an array of shape {list(array.shape)}; one image is [height, width] or [height, width, channels]"
            f"{hint}",
        )
    return np.ascontiguousarray(array)


_PNG_MODES = {mode: mode for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")} | {
    "La": "LA",
    "PA": "RGBA",
    "RGBa": "RGBA",
    "RGBX": "RGB",
    "CMYK": "RGB",
    "YCbCr": "RGB",
    "HSV": "RGB",
}
"""Pillow's modes, and the mode that PNG has for them."""

_EXIF_ORIENTATION = 0x0112


def _encode_pillow(image: Any, pillow: Any, index: int) -> bytes:
    """Encode a Pillow image as PNG. An orientation that it still carries goes along, as it would with its file."""
    mode = _PNG_MODES.get(image.mode)
    if mode is None:
        raise InvalidRequestError.of(
            f"images[{index}]",
            f"is a Pillow image of mode {image.mode}; convert it to L or RGB, whose samples are 0 to 255",
        )
    exif = pillow.Exif()
    orientation = image.getexif().get(_EXIF_ORIENTATION, 1)
    if orientation != 1:
        exif[_EXIF_ORIENTATION] = orientation
    buffer = BytesIO()
    converted = image if mode == image.mode else image.convert(mode)
    converted.save(buffer, "PNG", compress_level=1, exif=exif)
    return buffer.getvalue()


def _alike(one: bytes | Pixels, other: bytes | Pixels) -> bool:
    """Whether two images can travel in one message."""
    if isinstance(one, bytes) or isinstance(other, bytes):
        return isinstance(one, bytes) and isinstance(other, bytes)
    return one.shape == other.shape


def _chunk(first: int, images: list[bytes | Pixels], options: Options) -> Chunk:
    request = options.request()
    if isinstance(images[0], bytes):
        request.encoded.images.extend(images)  # type: ignore[arg-type]  # all are alike
    else:
        request.packed.data = b"".join(images)  # type: ignore[arg-type]  # arrays are buffers
        request.packed.shape.extend((len(images), *images[0].shape))
    return Chunk(first, len(images), request)


def classifications(reply: pb.ClassifyResponse, rows: int) -> list[Classification]:
    """Turn the reply to a request of `rows` images into one result for each.

    Raises:
        InternalError: the reply does not fit the request.
    """
    counts = [len(result.predictions) for result in reply.results]
    if len(counts) != rows or 0 in counts:
        raise InternalError(f"the server answered {rows} images with {len(counts)} results of {counts} predictions")
    batches: Sequence[BatchInfo | None] = [
        batch for message in reply.batches for batch in [_batch(message)] * message.request_rows
    ]
    if not batches:
        batches = [None] * rows
    return [
        Classification(
            top=tuple([Prediction(found.label, found.index, found.probability) for found in result.predictions]),
            model=reply.model,
            model_version=reply.model_version,
            decoding=tuple(result.decoding),
            batch=batch,
            request_id=reply.request_id,
        )
        for result, batch in zip(reply.results, batches, strict=True)
    ]


def _batch(message: pb.BatchInfo) -> BatchInfo:
    return BatchInfo(
        request_rows=message.request_rows,
        rows=message.rows,
        padded_rows=message.padded_rows,
        release_reason=_RELEASE_REASONS.get(message.release_reason, _UNSPECIFIED),
        queue_seconds=message.queue_seconds,
        batch_wait_seconds=message.batch_wait_seconds,
        run_seconds=message.run_seconds,
        provider=message.provider,
        variant=message.variant,
        model_digest=message.model_digest,
    )


def model_info(message: model_pb2.Model) -> ModelInfo:
    """Turn the description of a model into a result."""
    return ModelInfo(
        name=message.name,
        versions=tuple([_version_info(version) for version in message.versions]),
        default_version=message.default_version or None,
        aliases=dict(message.aliases),
    )


def _version_info(message: model_pb2.ModelVersion) -> VersionInfo:
    return VersionInfo(
        version=message.version,
        state=_STATES.get(message.state, _UNSPECIFIED),
        reason=message.reason,
        digest=message.digest,
        input_shape=tuple(message.input_shape),
        labels=tuple(message.labels),
        metrics=dict(message.metrics),
        dataset=message.dataset,
        preset=message.preset,
        provider=message.provider,
        max_batch_size=message.max_batch_size,
    )
