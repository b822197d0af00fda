"""How long forms of a model take on this machine, measured against each other.

Forms take turns, so what else goes on here meets all of them. Measured is the processor time of the one thread that
computes, and of all rounds the least counts: on an idle machine that is the latency, and what a busy one does besides
only adds to it.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from convserve.arrays import Images
from convserve.manifest import INPUT_NAME, LOGITS_NAME, PROBABILITIES_NAME

BATCH_SIZES = (1, 64)
ROUNDS = 25
ROUND_SECONDS = 0.02
"""A round repeats a form until it has run about so long; less would measure the clock."""


def open_session(path: Path, *, optimized: bool = False) -> Any:
    """Open a file as the server does, with one thread. `optimized`: the file holds a graph that is so already."""
    import onnxruntime  # late: listing presets does without

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if optimized:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(path.read_bytes(), options, providers=["CPUExecutionProvider"])


def compare_runs(
    sessions: Mapping[str, Any], images: Images, batch_sizes: Sequence[int] = BATCH_SIZES, rounds: int = ROUNDS
) -> dict[str, dict[int, float]]:
    """Least seconds for a batch, by form and batch size."""
    found: dict[str, dict[int, float]] = {name: {} for name in sessions}
    for size in batch_sizes:
        batch = images[np.arange(size) % len(images)]
        work = {name: functools.partial(_run, session, batch) for name, session in sessions.items()}
        for name, seconds in _take_turns(work, rounds).items():
            found[name][size] = seconds
    return found


def compare_loads(opens: Mapping[str, Callable[[], object]], rounds: int = ROUNDS) -> dict[str, float]:
    """Least seconds for opening a session, by form."""
    return _take_turns(opens, rounds)


def _run(session: Any, batch: Images) -> object:
    return session.run([LOGITS_NAME, PROBABILITIES_NAME], {INPUT_NAME: batch})


def _take_turns(work: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    repeats = {name: max(1, round(ROUND_SECONDS / max(_time(one, 1), 1e-6))) for name, one in work.items()}
    times: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(rounds):
        for name, one in work.items():
            times[name].append(_time(one, repeats[name]))
    return {name: min(found) for name, found in times.items()}


def _time(work: Callable[[], object], repeats: int) -> float:
    started = time.thread_time()
    for _ in range(repeats):
        work()
    return (time.thread_time() - started) / repeats
