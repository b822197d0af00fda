"""docs/performance.md says what the result files say."""

from __future__ import annotations

from scripts import performance


def test_the_page_follows_from_the_results() -> None:
    """After a measurement: python -m scripts.performance."""
    text = performance.PAGE.read_text()
    assert performance.write(text) == text
