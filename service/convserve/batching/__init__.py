"""Forming batches out of requests: a pure queue, and the threads around it."""

from __future__ import annotations

from convserve.batching.batcher import Batcher
from convserve.batching.item import BatchRun, Item, Outputs, Priority, ReleaseReason, Trace
from convserve.batching.queue import Batch, BatchQueue, QueueLimits
from convserve.batching.times import BatchTimes
from convserve.batching.turns import SHORT_SECONDS, Turns

__all__ = [
    "SHORT_SECONDS",
    "Batch",
    "BatchQueue",
    "BatchRun",
    "BatchTimes",
    "Batcher",
    "Item",
    "Outputs",
    "Priority",
    "QueueLimits",
    "ReleaseReason",
    "Trace",
    "Turns",
]
