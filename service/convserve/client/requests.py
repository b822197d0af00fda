"""Images to requests. No channel in here: every kind of client shares it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from io import IOBase
from numbers import Integral
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from convserve.client.images import ImageLike, Loaded, load
from convserve.errors import InvalidRequestError
from convserve.v1 import classification_pb2 as pb

MAX_ROWS = 64
"""Most images in one RPC: a full batch of the server's default settings, far below what its queue takes."""

_OVERHEAD_BYTES = 4096
"""Room in a message for everything but images."""

_IMAGE_OVERHEAD_BYTES = 16
"""Room in a message for the tag and the length of one image."""

Kind: TypeAlias = tuple[int, ...] | None
"""What images must have in common to travel in one message: the shape of pixels; None for files."""


class Options(NamedTuple):
    """What a caller wants of a classification. A tuple, because each call makes one and looks its lane up by it."""

    model: str
    """Name of the model."""
    version: int | str | None
    """A version number, an alias, or None for the server's choice. A string of digits is a number."""
    top_k: int
    """Classes to return for each image."""
    explain: bool
    """Whether the reply tells how its batches ran."""

    def check(self) -> None:
        """Find values that cannot travel.

        Raises:
            InvalidRequestError: names the argument.
        """
        top_k: Any = self.top_k  # 1.0 and True equal 1: they would share its lane, and cannot travel
        if type(top_k) is bool or not (isinstance(top_k, Integral) and 0 <= int(top_k) < 2**32):
            raise InvalidRequestError.of("top_k", f"{self.top_k} came; it is the number of classes to return")
        explain: Any = self.explain  # nor can 0.0, which equals False
        if type(explain) is not bool and not isinstance(explain, Integral | np.bool_ | None):
            raise InvalidRequestError.of("explain", f"{explain!r} came; it is True or False")
        version: Any = self.version
        if not isinstance(version, str | Integral | None):
            raise InvalidRequestError.of("version", f"{version} came; a version is a whole number, or an alias")
        if version is not None and not self._is_alias() and not 1 <= int(version) < 2**63:
            raise InvalidRequestError.of("version", f"{self.version} came; versions are 1 or higher")

    def request(self) -> pb.ClassifyRequest:
        """Make a request without images.

        Raises:
            InvalidRequestError: a value that cannot travel.
        """
        self.check()
        request = pb.ClassifyRequest(model=self.model, top_k=self.top_k, explain=self.explain)
        if self._is_alias():
            request.alias = str(self.version)
        elif self.version is not None:
            request.version = int(self.version)
        return request

    def _is_alias(self) -> bool:
        return isinstance(self.version, str) and not self.version.isdecimal()


@dataclass(frozen=True)
class Chunk:
    """Images that travel in one RPC."""

    first: int
    """Position of its first image among all images of the call."""
    rows: int
    """Images in it."""
    request: pb.ClassifyRequest
    """The message."""


class Chunker:
    """Puts images into as few requests as the limits allow, in order."""

    def __init__(self, options: Options, max_message_bytes: int, max_rows: int = MAX_ROWS) -> None:
        """Start without images.

        Raises:
            InvalidRequestError: an option that cannot travel.
        """
        options.check()
        self._options = options
        self._budget = max_message_bytes - _OVERHEAD_BYTES
        self._max_rows = max_rows
        self._waiting: list[Loaded] = []
        self._waiting_bytes = self._first = 0

    @property
    def next_index(self) -> int:
        """Position of the image that comes next."""
        return self._first + len(self._waiting)

    def add(self, image: Loaded) -> Chunk | None:
        """Take an image. Returns the request that is complete now, if there is one.

        Raises:
            InvalidRequestError: the image is larger than a message.
        """
        index = self.next_index
        size = size_of(image)
        if size > self._budget:
            raise InvalidRequestError.of(
                f"images[{index}]", f"takes {size:,} bytes; one message carries {self._budget:,} (max_message_bytes)"
            )
        complete = None
        if self._waiting and not self._has_room(image, size):
            complete = self.finish()
        # a source may use one array for all its images
        self._waiting.append(image if isinstance(image, bytes) or self._max_rows == 1 else image.copy())
        self._waiting_bytes += size
        if complete is None and len(self._waiting) == self._max_rows:
            complete = self.finish()
        return complete

    def finish(self) -> Chunk | None:
        """Return the request with the images that are left, if there are any."""
        if not self._waiting:
            return None
        chunk = Chunk(self._first, len(self._waiting), request_of(self._waiting, self._options))
        self._first += len(self._waiting)
        self._waiting, self._waiting_bytes = [], 0
        return chunk

    def _has_room(self, image: Loaded, size: int) -> bool:
        return kind_of(self._waiting[0]) == kind_of(image) and self._waiting_bytes + size <= self._budget


def chunks(
    images: Iterable[ImageLike],
    options: Options,
    max_message_bytes: int,
    max_rows: int = MAX_ROWS,
    *,
    is_stream: bool = False,
) -> Iterator[Chunk]:
    """Put images into as few requests as the limits allow, in order. Images are read when their request is made.

    In a stream, an image that cannot be read takes nothing from those before it: their request comes before its error.

    Raises:
        InvalidRequestError: something is no image, or too large for a message; names its position.
        OSError: a file cannot be read.
    """
    check_many(images)
    chunker = Chunker(options, max_message_bytes, max_rows)
    try:
        for image in images:
            chunk = chunker.add(load(image, chunker.next_index))
            if chunk is not None:
                yield chunk
    except Exception:
        if is_stream and (chunk := chunker.finish()) is not None:
            yield chunk
        raise
    chunk = chunker.finish()
    if chunk is not None:
        yield chunk


def of_one(image: Loaded, options: Options, max_message_bytes: int) -> pb.ClassifyRequest:
    """Make the request for one image.

    Raises:
        InvalidRequestError: the image is larger than a message.
    """
    chunker = Chunker(options, max_message_bytes, max_rows=1)
    chunk = chunker.add(image)
    if chunk is None:
        raise AssertionError("a chunk of one row is complete with its first")
    return chunk.request


def check_many(images: object) -> None:
    """Refuse one image where many are wanted.

    Raises:
        InvalidRequestError: this is one image.
    """
    if isinstance(images, str | os.PathLike | bytes | bytearray | memoryview | IOBase):  # a file is not its lines
        raise InvalidRequestError.of(
            "images", f"is one {type(images).__name__}; give a list of images, or use classify"
        )


def check_batch_size(batch_size: object) -> None:
    """Refuse what is no number of images.

    Raises:
        InvalidRequestError: it is below 1, or no whole number: no request would ever be full.
    """
    if not isinstance(batch_size, Integral) or int(batch_size) < 1:
        raise InvalidRequestError.of("batch_size", f"{batch_size} came; it is a number of images, 1 or more")


def size_of(image: Loaded) -> int:
    """Bytes that an image takes in a message."""
    return (len(image) if isinstance(image, bytes) else image.nbytes) + _IMAGE_OVERHEAD_BYTES


def kind_of(image: Loaded) -> Kind:
    """What images must have in common to travel in one message: the shape of pixels; None for files."""
    return None if isinstance(image, bytes) else image.shape


def request_of(images: Sequence[Loaded], options: Options) -> pb.ClassifyRequest:
    """Make the request for one or more images, all of the same kind."""
    request = options.request()
    if isinstance(images[0], bytes):
        request.encoded.images.extend(images)  # type: ignore[arg-type]  # all are of one kind
    else:
        request.packed.data = b"".join(images)  # type: ignore[arg-type]  # arrays are buffers
        request.packed.shape.extend((len(images), *images[0].shape))
    return request
