"""One request in a queue: its rows, its deadline, and where its answer goes."""

from __future__ import annotations

import enum
import math
import threading
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import numpy as np
import structlog

from convserve.arrays import Images, Logits, Probabilities

log = structlog.get_logger(__name__)


class Priority(enum.IntEnum):
    """How urgent an item is; higher ones are batched first."""

    LOW = 0
    NORMAL = 1
    HIGH = 2


class ReleaseReason(enum.Enum):
    """Why a batch was released when it was."""

    FULL = "full"
    WINDOW = "window"
    IDLE = "idle"
    DEADLINE = "deadline"
    DRAIN = "drain"


class Outputs(NamedTuple):
    """What a model computes for a batch; both arrays have one row for each image."""

    logits: Logits
    probabilities: Probabilities


class BatchRun(NamedTuple):
    """How one batch ran that held rows of an item. Durations in seconds."""

    item_rows: int
    rows: int
    padded_rows: int
    reason: ReleaseReason
    queue_seconds: float
    batch_wait_seconds: float
    run_seconds: float


class Trace(Protocol):
    """The trace of a request that is being traced."""

    def batch_ran(self, started: float, parts: Sequence[tuple[Trace, BatchRun]]) -> None:
        """Take note of a batch that has run, whose callers are answered.

        Args:
            started: reading of the server's clock.
            parts: every traced request in the batch, this one first, with its own view of the batch.
        """


Done = Callable[[Outputs | BaseException, "list[BatchRun]"], None]


class Item:
    """The rows of one request, on their way through a queue.

    An item is answered exactly once: `finish` is "set unless done", from whichever thread comes first: the one that
    ran the last batch, or the one that cancelled. `enqueued`, `next_row` and `split` belong to the queue.
    """

    __slots__ = (
        "_done",
        "_pieces",
        "deadline",
        "enqueued",
        "images",
        "next_row",
        "predicted_seconds",
        "priority",
        "row_bytes",
        "rows",
        "runs",
        "trace",
    )

    def __init__(
        self,
        images: Images,
        done: Done,
        *,
        deadline: float = math.inf,
        priority: Priority = Priority.NORMAL,
        trace: Trace | None = None,
    ) -> None:
        """Make an item.

        Args:
            images: uint8 [n, H, W, C], n at least 1. Must not change until the item is finished.
            done: called once, with the outputs of all rows in order or with an error, and the batches that ran. Called
                on whichever thread finishes the item; it must be quick. What it raises is logged and goes no further.
            deadline: reading of the server's clock after which nobody wants the answer.
            priority: urgency within the queue.
            trace: told of the batches that ran; None when the request is not traced.
        """
        self.images = images
        self.deadline = deadline
        self.priority = priority
        self.trace = trace
        self.enqueued = 0.0
        """When the item entered the queue; set by the queue."""
        self.predicted_seconds = 0.0
        """How long the answer was predicted to take when the item was admitted; 0: nobody had to know."""
        self.next_row = 0
        """First row that no batch has taken yet."""
        self.runs: list[BatchRun] = []
        """The batches that held rows of the item, so far."""
        self.rows = len(images)
        """Images of the request."""
        self.row_bytes = images.nbytes // self.rows
        """Bytes of one image."""
        self._done = [done]
        self._pieces: _Pieces | None = None

    @property
    def finished(self) -> bool:
        """True once the caller was or is being answered."""
        return not self._done

    def finish(self, outcome: Outputs | BaseException) -> bool:
        """Answer the caller, unless that was done before. Returns whether this call did it. Thread-safe.

        It does not raise: whoever calls it has others to answer, and is often the only thread that runs batches.
        """
        try:
            done = self._done.pop()  # one step of the interpreter: of two threads, one gets it
        except IndexError:
            return False
        try:
            done(outcome, self.runs)
        except Exception as error:  # one caller's trouble must not become the others'
            log.error("answer not handed over", exc_info=error)
        return True

    def split(self) -> None:
        """Prepare for rows that come back in several batches. Called by the queue before the first piece leaves it."""
        if self._pieces is None:
            self._pieces = _Pieces(self.rows)

    def complete_rows(self, start: int, outputs: Outputs, run: BatchRun) -> None:
        """Take the outputs of the rows from `start` on, and answer the caller when they were the last ones missing.

        A request that ran in one piece is answered with the arrays as they are; one that was split is put together
        in the order of its rows. Thread-safe: pieces may come back at the same time.
        """
        if self._pieces is None:
            self.runs.append(run)
            self.finish(outputs)
            return
        whole = self._pieces.put(start, outputs, run)
        if whole is not None:
            self.runs = self._pieces.runs_in_order()
            self.finish(whole)


class _Pieces:
    """The answer of a split item, while pieces of it are missing."""

    def __init__(self, rows: int) -> None:
        self._lock = threading.Lock()
        self._rows = rows
        self._missing = rows
        self._outputs: Outputs | None = None
        self._runs: list[tuple[int, BatchRun]] = []

    def put(self, start: int, outputs: Outputs, run: BatchRun) -> Outputs | None:
        """Copy a piece to its place. Returns the whole once nothing is missing."""
        count = len(outputs.probabilities)
        with self._lock:
            if self._outputs is None:
                self._outputs = Outputs(*(np.empty((self._rows, *part.shape[1:]), part.dtype) for part in outputs))
            for whole, part in zip(self._outputs, outputs, strict=True):
                whole[start : start + count] = part
            self._runs.append((start, run))
            self._missing -= count
            return self._outputs if self._missing == 0 else None

    def runs_in_order(self) -> list[BatchRun]:
        """The batches in the order of the rows."""
        return [run for _, run in sorted(self._runs, key=lambda entry: entry[0])]
