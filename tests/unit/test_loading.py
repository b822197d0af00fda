"""What a version is proved for follows from how its batches are formed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from convserve import proving
from convserve.batching import BatchTimes
from convserve.config import ModelSettings, Settings
from convserve.errors import ConfigError
from convserve.lifecycle import VersionState
from convserve.loading import Loader
from convserve.metrics import Metrics
from convserve.registry import LoadedVersion, VersionStatus
from convserve.repository import scan


@pytest.mark.parametrize(
    ("model", "threads", "sizes", "any_size"),
    [
        pytest.param(ModelSettings(), 1, [1, 2, 4, 8, 16, 64], True, id="any size up to the largest"),
        pytest.param(ModelSettings(max_batch_size=100), 4, [1, 2, 4, 8, 16, 32, 100], True, id="more threads"),
        pytest.param(ModelSettings(max_batch_size=6), 1, [1, 2, 4, 6], True, id="never in pieces"),
        pytest.param(ModelSettings(max_batch_size=1), 1, [1], True, id="single images"),
        pytest.param(ModelSettings(allowed_batch_sizes=(4, 64)), 1, [4, 64], False, id="padded to a few sizes"),
    ],
)
def test_sizes_that_are_proved(
    repository: Path,
    monkeypatch: pytest.MonkeyPatch,
    model: ModelSettings,
    threads: int,
    sizes: list[int],
    any_size: bool,
) -> None:
    """Those that batches are padded to; else any, timed at powers of two, and the largest ones."""
    asked: list[Any] = []

    def prove(*args: Any, any_size: bool) -> BatchTimes:
        asked.append((args[-1], any_size))
        return BatchTimes({1: 1.0})

    monkeypatch.setattr(proving, "prove", prove)
    settings = Settings(model_repository=repository, model=model)
    loader = Loader(settings, Metrics(CollectorRegistry(), "0"), threads)
    found = scan(repository)["stripes"][1]
    loaded, _ = loader.load(found, VersionStatus(VersionState.LOADING), lambda status: status, in_background=False)
    loaded.runtime.close()
    assert asked == [(sizes, any_size)]


def test_a_request_that_no_queue_could_hold_is_known_as_such(repository: Path) -> None:
    """It is wrong, for ever; "the queue is full" would have its caller try again, for ever."""

    def load(most_bytes: int) -> LoadedVersion:
        settings = Settings(model_repository=repository, model=ModelSettings(max_queue_bytes=most_bytes))
        loader = Loader(settings, Metrics(CollectorRegistry(), "0"), 1)
        found = scan(repository)["stripes"][1]
        loaded, _ = loader.load(found, VersionStatus(VersionState.LOADING), lambda status: status, in_background=False)
        loaded.runtime.close()
        return loaded

    assert load(2**20).max_rows == 1024
    assert load(10 * 64 + 63).max_rows == 10
    with pytest.raises(ConfigError, match="max_queue_bytes is 63; an image of stripes has 64"):
        load(63)
