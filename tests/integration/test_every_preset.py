"""Every preset is built, trained a few steps on real images, exported and proved; one goes all the way."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from convserve import Client, manifest, proving
from convserve.runtimes.onnx import OnnxRuntime
from convtrain import feature_maps, train, variants
from convtrain.datasets import Dataset, Split
from convtrain.layout import lay_out
from convtrain.pipeline import Pipeline
from convtrain.presets import PRESETS
from convtrain.runs import Data, Run, RunRecord
from support.server import serving

pytestmark = [pytest.mark.training, pytest.mark.timeout(900)]

DATA = Path(__file__).parents[1] / "data"


@functools.cache
def sample(name: str) -> Data:
    """Real images: 128 to train on, 64 to choose by, 100 to test. CIFAR-10's, enlarged, stand for a folder's."""
    folder = name == "folder"
    with np.load(DATA / f"{'cifar10' if folder else name}-sample.npz") as arrays:
        larger = 2 if folder else 1
        images = {split: arrays[f"{split}_images"].repeat(larger, 1).repeat(larger, 2) for split in ("train", "test")}
        train_split = Split(images["train"], arrays["train_labels"])
        dataset = Dataset(
            name=name,
            labels=tuple(str(label) for label in arrays["label_names"]),
            train=train_split,
            test=Split(images["test"][:100], arrays["test_labels"][:100]),
        )
    return Data(dataset, train_split.take(np.arange(128)), train_split.take(np.arange(128, 192)))


Start = Callable[[str], Pipeline]


@pytest.fixture
def start(tmp_path: Path) -> Start:
    """Makes a run of a preset that takes four steps."""

    def make(name: str) -> Pipeline:
        preset = PRESETS[name].override(epochs=1, batch_size=32)
        data = sample(preset.dataset)
        record = RunRecord(
            preset=preset,
            data_dir=None,
            check_digests=False,
            limit=None,
            command=f"convtrain run {name}",
            labels=list(data.dataset.labels),
            dataset=data.describe(),
        )
        return Pipeline(Run.create(tmp_path / "run", record), data)

    return make


@pytest.mark.parametrize("name", PRESETS)
def test_it_trains_and_both_forms_say_what_it_says(start: Start, name: str) -> None:
    """The parameters are those computed without Keras, the weights move, and the exports pass the gate."""
    pipeline = start(name)
    history = pipeline.train()
    assert np.isfinite(history.epochs[0].loss)
    preset = pipeline.run.record.preset
    model = train.load_trained(pipeline.run)
    assert model.count_params() == sum(row.parameters for row in lay_out(preset.architecture, preset.input, 10))
    assert pipeline.evaluate().images == 100
    assert {form: proof.images for form, proof in pipeline.export().parity.items()} == {"saved_model": 100, "onnx": 100}


def test_a_run_with_variants_and_report_is_published_and_every_variant_is_proved(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """int8 and the optimised graph answer as the float32 file does, and the server proves them like it."""
    pipeline = start("cifar10-simple")
    pipeline.train()
    pipeline.evaluate()
    pipeline.export()
    monkeypatch.setattr(variants, "judge", lambda name, trial: "")  # speed is not for a test to find out
    trials = pipeline.try_variants().trials
    assert trials["optimized"].max_abs_diff_probabilities <= 1e-5
    assert trials["int8"].max_abs_diff_probabilities < 0.1
    assert trials["int8"].bytes < 0.4 * (pipeline.run.export_directory / "model.onnx").stat().st_size
    assert trials["int8"].speedup.keys() == {"1", "64"}
    page = pipeline.report().read_text()
    assert page.count("<svg") == 7
    assert "http-equiv" not in page
    assert "src=" not in page.replace('xlink:href="data:', "")
    report = json.loads(pipeline.run.report_path.read_text())
    assert report["trials"].keys() == {"int8", "optimized"}
    assert len(report["mistakes"]) == min(24, 100 - report["evaluation"]["correct"])
    directory = pipeline.publish(tmp_path / "models")
    content, _ = manifest.read(directory)
    manifest.verify_files(directory, content)
    for variant in ("fp32", "int8", "optimized"):
        runtime = OnnxRuntime(directory, content, variant=variant)
        proving.prove(directory, content, runtime, [1, 3, 64])
        if variant == "int8":
            expected = runtime.run(pipeline.data.test.images).probabilities
        runtime.close()
    # The server runs the variant that its settings name, and says so.
    config = tmp_path / "settings.toml"
    config.write_text('[models.cifar10]\nvariant = "int8"\n')
    with serving(tmp_path / "models", tmp_path, "--config", str(config)) as server, Client(server.target) as client:
        answers = client.classify_batch(pipeline.data.test.images, model="cifar10", explain=True)
    assert {answer.batch.variant for answer in answers if answer.batch is not None} == {"int8"}
    np.testing.assert_allclose([answer.probability for answer in answers], expected.max(axis=1), atol=1e-6)


def test_what_the_first_layers_see_is_what_they_compute(start: Start) -> None:
    """Feature maps from the ONNX file are the convolution of the normalised image, after its ReLU."""
    pipeline = start("cifar10-strided")
    pipeline.train()
    pipeline.evaluate()
    pipeline.export()
    path = pipeline.run.export_directory / "model.onnx"
    images = pipeline.data.test.images[:2]
    first, second = feature_maps.compute(path, images)
    assert first.values.shape == (2, 16, 16, 32)
    assert second.values.shape == (2, 8, 8, 64)
    kernels = feature_maps.first_filters(path)
    assert kernels is not None
    assert kernels.shape == (32, 3, 3, 3)
    preset = pipeline.run.record.preset
    scaled = (images - np.array(preset.architecture.normalization.mean)) / preset.architecture.normalization.std
    bias = np.asarray(train.load_trained(pipeline.run).weights[1])
    # The value in the middle of the map sees rows and columns 16 to 18 of the image.
    window = scaled[:, 16:19, 16:19]
    expected = np.maximum(np.einsum("nijc,fijc->nf", window, kernels) + bias, 0)
    np.testing.assert_allclose(first.values[:, 8, 8], expected, atol=1e-4)
