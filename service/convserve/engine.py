"""A request without its transport: find the version, check the images, queue them, bring the answer back.

`submit` never waits for a batch: the answer comes through a callback. A servicer's thread may wait for it; a transport
that drives many calls from one thread need not.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from convserve import images
from convserve.arrays import Images
from convserve.batching import SHORT_SECONDS, BatchRun, Item, Outputs, Priority, Trace, Turns
from convserve.clock import monotonic
from convserve.errors import ConvserveError, DeadlineError, InternalError, InvalidRequestError
from convserve.registry import LoadedVersion, Registry


class Trail(Protocol):
    """What a request leaves behind for logs and traces, also when it fails."""

    version: int
    """Number of the version that it was for; 0 until that is known."""
    rows: int
    """Its images; 0 until they are counted."""

    @property
    def trace(self) -> Trace | None:
        """Told of the batches that ran; None when the request is not traced."""


class Request(NamedTuple):
    """What a caller wants classified, by which version, until when."""

    model: str
    """Name of the model."""
    images: Images | Sequence[bytes]
    """Pixels, uint8 [n, H, W, C] in the model's shape; or image files."""
    field: str
    """Where the images lie in the caller's message, for errors."""
    version: int | None = None
    """Number of the version; None for the server's choice."""
    alias: str = ""
    """Alias of the version, instead of a number."""
    request_id: str = ""
    """The caller's id of the request; a split follows from it."""
    deadline: float = math.inf
    """Reading of the server's clock after which nobody wants the answer."""
    priority: Priority = Priority.NORMAL
    """Urgency within the model's queue."""
    trail: Trail | None = None
    """Filled while the request is under way."""


class Result(NamedTuple):
    """The answer to a request."""

    version: LoadedVersion
    """What answered. It may be unloaded already; its manifest stays."""
    outputs: Outputs
    """One row for each image, in order."""
    decoding: Sequence[tuple[str, ...]]
    """What decoding did to each image file; empty for packed images."""
    runs: Sequence[BatchRun]
    """The batches that held rows of the request."""


Done = Callable[[Result | ConvserveError], None]


class Ticket:
    """A request under way."""

    __slots__ = ("__weakref__", "_item", "_version")

    def __init__(self, version: LoadedVersion, item: Item) -> None:
        """Bind the item to where it waits."""
        self._version = version
        self._item = item

    def cancel(self, why: ConvserveError | None = None) -> None:
        """The caller has gone, or is told `why`: rows that wait never run. Does nothing once the answer is there."""
        if not self._item.finished:
            self._version.batcher.cancel(self._item, why)


class Engine:
    """Classifies. Thread-safe."""

    def __init__(self, registry: Registry, *, max_image_pixels: int, decoders: int = 4) -> None:
        """Put an engine together.

        Args:
            registry: the versions to serve.
            max_image_pixels: the most that an encoded image may have.
            decoders: image files that are decoded at the same time. More than there are cores gain nothing, and each
                holds its pixels several times over: up to 8 bytes for each, from a file of some kilobytes.
        """
        self._registry = registry
        self._max_image_pixels = max_image_pixels
        self._decoding = threading.BoundedSemaphore(decoders)

    def submit(self, request: Request, done: Done, turns: Turns | None = None) -> Ticket:
        """Queue a request. Decodes image files on the calling thread; never waits for a batch.

        `done` is called exactly once unless this raises: with the result or an error, on whichever thread has it. A
        caller that brings `turns` runs short batches itself, by calling `turns.run_one` as long as something is in it.

        Raises:
            ConvserveError: the request is refused; `done` will not be called.
        """
        version = self._registry.borrow(request.model, request.version, request.alias, request.request_id)
        trail = request.trail
        if trail is not None:
            trail.version = version.manifest.version
        started = monotonic()
        try:
            decoding: list[tuple[str, ...]] = []
            if isinstance(request.images, np.ndarray):
                pixels = _check_packed(request.images, version, request.field)
            else:
                pixels, decoding = self._decode(request, request.images, version)

            if trail is not None:
                trail.rows = len(pixels)
            decoded = monotonic()

            def finish(outcome: Outputs | BaseException, runs: list[BatchRun]) -> None:
                version.release()
                if isinstance(outcome, Outputs):
                    version.statistics.answered(len(pixels), decoded - started, monotonic() - started, runs)
                    done(Result(version, outcome, decoding, runs))
                    version.drift.note(pixels, outcome)
                    if request.version is None and not request.alias:
                        self._compare_with_shadow(version, request.request_id, pixels, outcome)
                else:
                    version.statistics.failed(monotonic() - started)
                    done(outcome if isinstance(outcome, ConvserveError) else InternalError("the model failed to run"))

            trace = trail.trace if trail is not None else None
            item = Item(pixels, finish, deadline=request.deadline, priority=request.priority, trace=trace)
            batcher = version.batcher
            if turns is not None and batcher.runs_here(item.rows, SHORT_SECONDS):
                batcher.submit(item, wake=False)
                turns.add(batcher)
            else:
                if turns is not None:
                    turns.share()
                batcher.submit(item)
        except BaseException as error:
            version.release()
            version.statistics.failed(monotonic() - started)
            version.refused(error)
            raise
        return Ticket(version, item)

    def _compare_with_shadow(self, version: LoadedVersion, request_id: str, pixels: Images, answer: Outputs) -> None:
        """Let the shadow version, if there is one, answer the same images; count where it disagrees.

        The caller has his answer already. The copy has the lowest priority, and is dropped when the queue is full, or
        when the shadow takes images of another shape.
        """
        shadow = self._registry.borrow_shadow(version, request_id)
        if shadow is None:
            return
        if shadow.manifest.input.shape != pixels.shape[1:]:
            shadow.release()
            return

        def compare(outcome: Outputs | BaseException, runs: list[BatchRun]) -> None:  # noqa: ARG001
            shadow.release()
            if isinstance(outcome, Outputs):
                version.compared(shadow.manifest.version, answer, outcome)

        try:
            shadow.batcher.submit(Item(pixels, compare, priority=Priority.LOW))
        except ConvserveError:
            shadow.release()

    def _decode(
        self, request: Request, files: Sequence[bytes], version: LoadedVersion
    ) -> tuple[Images, list[tuple[str, ...]]]:
        """Decode image files by the version's policy. Returns uint8 [n, H, W, C] and what was done to each.

        Under load files wait for their turn, here and before; what nobody waits for any more is not decoded.
        """
        _check_count(len(files), version, request.field)
        manifest = version.manifest
        pixels = np.empty((len(files), *manifest.input.shape), np.uint8)
        steps = []
        for index, data in enumerate(files):
            field = f"{request.field}[{index}]"
            with self._decoding:
                if request.deadline <= monotonic():
                    raise DeadlineError(f"the deadline passed before {field} was decoded")
                decoded = images.decode(
                    data, manifest.input, manifest.decode, max_pixels=self._max_image_pixels, field=field
                )
            pixels[index] = decoded.pixels
            steps.append(decoded.steps)
        return pixels, steps


def _check_count(count: int, version: LoadedVersion, field: str) -> None:
    if not 1 <= count <= version.max_rows:
        raise InvalidRequestError.of(field, f"{count} images came; one request takes 1 to {version.max_rows}")


def _check_packed(pixels: Images, version: LoadedVersion, field: str) -> Images:
    """Refuse pixels that are not in the model's shape."""
    shape = version.manifest.input.shape
    if pixels.ndim != 4 or pixels.shape[1:] != shape:
        came = "×".join(map(str, pixels.shape[1:] if pixels.ndim == 4 else pixels.shape))
        wanted = "×".join(map(str, shape))
        raise InvalidRequestError.of(
            field,
            f"images are {came}; {version.label} takes {wanted} (height×width×channels), or image files of any size",
        )
    _check_count(len(pixels), version, field)
    return pixels
