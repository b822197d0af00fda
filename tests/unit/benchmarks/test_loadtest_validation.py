"""How the validation of the load tester turns requests into the speed of the machine."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks import loadtest_validation
from convserve.loadtest.records import RECORD


def test_the_speed_of_a_run_is_read_from_its_batches() -> None:
    """Requests of one batch are told the same run; failed ones tell nothing."""
    records = np.zeros(5, RECORD)
    records["done"] = [2.030, 2.031, 1.012, 1.5, 1.6]
    records["run"] = [0.030, 0.030, 0.006, -1, 0.5]
    records["batch"] = [2, 2, 1, 0, 1]
    records["code"] = [0, 0, 0, 0, 4]
    slowness = loadtest_validation.slowness(records, 0.002, 0.004)
    assert [slowness(at) for at in (0.0, 1.0, 1.5, 1.9, 9.0)] == pytest.approx([1, 1, 3, 3, 3], rel=1e-6)
