"""A fake server for each test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from support.fake_server import FakeServer, running


@pytest.fixture
def fake() -> Iterator[FakeServer]:
    """A server of this process that does what the test tells it to."""
    with running() as server:
        yield server
