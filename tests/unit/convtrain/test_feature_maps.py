"""What is drawn of a convolution is what the next layer gets from it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from convserve.manifest import InputSpec
from convtrain import backend, export, feature_maps, network
from convtrain.architectures import Activation, Architecture, Conv, GlobalPool, Pool

pytestmark = pytest.mark.training

SPEC = InputSpec(height=12, width=12, channels=3)


@pytest.mark.parametrize("activation", ["linear", "relu", "silu", "gelu"])
@pytest.mark.parametrize("batch_norm", [False, True])
def test_a_map_is_what_comes_after_the_activation(activation: Activation, batch_norm: bool, tmp_path: Path) -> None:
    """However many nodes the exporter writes it in, with the pool and the normalisation that may lie before it."""
    inner = Conv(filters=4, pool=2 if batch_norm else 1, batch_norm=batch_norm, activation=activation)
    model = network.build(Architecture(layers=(inner, Pool(), Conv(filters=5), GlobalPool())), SPEC, 4)
    rng = np.random.default_rng(0)
    for weight in model.weights:
        weight.assign(rng.uniform(0.1, 1.0, weight.shape) * (1 if "variance" in weight.path else rng.choice([-1, 1])))
    export.write_onnx(model, tmp_path / "model.onnx")
    images = rng.integers(0, 256, (3, *SPEC.shape), dtype=np.uint8)
    first, second = feature_maps.compute(tmp_path / "model.onnx", images)
    pools = [
        layer for layer in model.layers if "pool" in layer.name
    ]  # inside the convolution, if any; after it; global
    expected = backend.keras().Model(model.input, [pools[-2].input, pools[-1].input])(images)
    if activation == "linear" and batch_norm:
        assert first.values.shape == (3, 12, 12, 4)  # nothing tells where such a one ends: it is the convolution's own
    else:
        np.testing.assert_allclose(first.values, expected[0], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(second.values, expected[1], rtol=1e-4, atol=1e-3)
