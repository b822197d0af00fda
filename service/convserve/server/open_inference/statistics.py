"""ModelStatistics: sums of counts and nanoseconds, as messages."""

from __future__ import annotations

from convserve.open_inference.v2 import management_pb2 as pb
from convserve.server.shared_totals import Key
from convserve.statistics import Tally, Totals


def statistics(key: Key, totals: Totals) -> pb.ModelStatistics:
    """The sums of one version."""
    model, version = key
    return pb.ModelStatistics(
        name=model,
        version=str(version),
        last_inference=round(totals.last_batch * 1000),
        inference_count=totals.rows,
        execution_count=sum(tally.count for tally in totals.batches.values()),
        inference_stats=pb.InferStatistics(
            success=_duration(totals.success),
            fail=_duration(totals.failed),
            queue=_duration(totals.queue),
            compute_input=_duration(totals.decode),
            compute_infer=_duration(totals.run),
            compute_output=_duration(totals.reply),
        ),
        batch_stats=[
            pb.InferBatchStatistics(batch_size=rows, compute_infer=_duration(tally))
            for rows, tally in sorted(totals.batches.items())
        ],
    )


def _duration(tally: Tally) -> pb.StatisticDuration:
    return pb.StatisticDuration(count=tally.count, ns=round(tally.seconds * 1e9))
