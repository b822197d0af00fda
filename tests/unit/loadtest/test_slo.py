"""Promises about latency, and whether they were kept."""

from __future__ import annotations

import numpy as np
import pytest

from convserve.errors import ConfigError
from convserve.loadtest import slo
from convserve.loadtest.histogram import Histogram


def test_several_promises_are_read() -> None:
    """Percentiles with decimals, and three units."""
    parsed = slo.parse("p50=500us, p99.9=20ms,p99=1.5s")
    assert [(one.percentile, one.seconds) for one in parsed] == [
        (0.5, 500e-6),
        (pytest.approx(0.999), 0.02),
        (0.99, 1.5),
    ]
    assert [str(one) for one in parsed] == ["p50=0.5ms", "p99.9=20ms", "p99=1500ms"]


@pytest.mark.parametrize("text", ["", "99=20ms", "p99=20", "p100=1s", "p0=1s", "p99=0ms", "p99<20ms"])
def test_what_is_no_promise_is_refused(text: str) -> None:
    """The error shows the form that is wanted."""
    with pytest.raises(ConfigError, match="such as p99=20ms"):
        slo.parse(text)


def of(*milliseconds: float) -> Histogram:
    histogram = Histogram()
    histogram.record(np.array(milliseconds) / 1000)
    return histogram


def test_a_failed_request_is_no_fast_answer() -> None:
    """99 fast answers keep p99; with two failures beside 98 it is missed, although every answer was fast."""
    (promise,) = slo.parse("p99=20ms")
    assert slo.judge(promise, of(*[5] * 99, 50), 0).met
    assert slo.judge(promise, of(*[5] * 98), 2).met is False


def test_kept_is_not_yet_certain() -> None:
    """100 fast requests keep p99 and show nothing: 459 would be needed."""
    (promise,) = slo.parse("p99=20ms")
    verdict = slo.judge(promise, of(*[5] * 100), 0)
    assert (verdict.met, verdict.shown, verdict.needed) == (True, False, 459)
    assert slo.judge(promise, of(*[5] * 459), 0).shown


def test_nothing_measured_keeps_nothing() -> None:
    """A run without requests is no success."""
    (promise,) = slo.parse("p99=20ms")
    assert not slo.judge(promise, Histogram(), 0).met
