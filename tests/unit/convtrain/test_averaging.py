"""The average of weights forgets the beginning and settles on what stays."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from convtrain import backend
from convtrain.averaging import Average

pytestmark = pytest.mark.training


@pytest.fixture
def pair() -> tuple[Any, Any]:
    """A weight in training and its average."""
    variable = backend.keras().Variable
    return variable(np.array([8, -8], np.float32)), variable(np.zeros(2, np.float32))


def test_it_starts_from_the_first_weights_and_follows(pair: tuple[Any, Any]) -> None:
    """In step 0 a tenth of it stays, later as much as was asked for."""
    weight, mean = pair
    average = Average([weight], [mean], decay=0.5)
    average.start()
    np.testing.assert_array_equal(mean.numpy(), [8, -8])
    weight.assign([18.0, 2.0])
    average.update(0)
    np.testing.assert_allclose(mean.numpy(), [17, 1], rtol=1e-6)
    weight.assign([0.0, 0.0])
    average.update(1000)
    np.testing.assert_allclose(mean.numpy(), [8.5, 0.5], rtol=1e-6)
    average.finish_epoch()
    np.testing.assert_allclose(mean.numpy(), [8.5, 0.5], rtol=1e-6)


def test_without_a_decay_it_is_the_last_weights(pair: tuple[Any, Any]) -> None:
    """Copied once an epoch, not in every step."""
    weight, mean = pair
    average = Average([weight], [mean], decay=0.0)
    average.update(0)
    np.testing.assert_array_equal(mean.numpy(), [0, 0])
    average.finish_epoch()
    np.testing.assert_array_equal(mean.numpy(), weight.numpy())
