"""What the registry says of versions that are not in it any more."""

from __future__ import annotations

import gc
from types import SimpleNamespace
from typing import Any

from convserve.lifecycle import VersionState
from convserve.registry import Registry, VersionStatus


class Version:
    """What the registry needs of a loaded version."""

    def __init__(self, number: int, longest_run: float) -> None:
        self.manifest = SimpleNamespace(model="stripes", version=number)
        self.label = f"stripes version {number}"
        self.batcher = SimpleNamespace(longest_run=longest_run)


def test_the_longest_run_is_found_wherever_it_hangs() -> None:
    """In a version that was withdrawn, or replaced by another of its number: neither can be unloaded before it ends."""
    registry, available = Registry(), VersionStatus(VersionState.AVAILABLE)
    assert registry.longest_run() == ("", 0.0)

    def publish(number: int, longest_run: float) -> Any:
        registry.publish(made := Version(number, longest_run), available)  # type: ignore[arg-type]
        return made

    replaced, answering = publish(1, 40.0), publish(1, 0.1)
    assert registry.longest_run() == ("stripes version 1", 40.0)
    withdrawn = publish(2, 70.0)
    registry.withdraw("stripes", 2)
    assert registry.longest_run() == ("stripes version 2", 70.0)
    del withdrawn, replaced
    gc.collect()
    assert registry.longest_run() == ("stripes version 1", answering.batcher.longest_run)
