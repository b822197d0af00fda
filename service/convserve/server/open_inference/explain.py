"""How a request was batched, as a parameter of its reply: one text, since parameters are flat and batches are not."""

from __future__ import annotations

import json

from convserve.batching import BatchRun
from convserve.engine import Result
from convserve.registry import LoadedVersion

PARAMETER = "batches"


def batches(result: Result) -> str:
    """The batches that held rows of the request, as a JSON list; the keys are those of `convserve.v1.BatchInfo`."""
    return json.dumps([_batch(run, result.version) for run in result.runs])


def _batch(run: BatchRun, version: LoadedVersion) -> dict[str, object]:
    return {
        "request_rows": run.item_rows,
        "rows": run.rows,
        "padded_rows": run.padded_rows,
        "release_reason": run.reason.value,
        "queue_seconds": run.queue_seconds,
        "batch_wait_seconds": run.batch_wait_seconds,
        "run_seconds": run.run_seconds,
        "provider": version.runtime.provider,
        "variant": version.runtime.variant,
        "model_digest": version.digest,
    }
