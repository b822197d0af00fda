"""Training on real digits: it learns, it stops cleanly, and it goes on as if it had not stopped."""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from convtrain import backend, files, train
from convtrain.architectures import (
    Architecture,
    Conv,
    Dense,
    Dropout,
    Flatten,
    GlobalPool,
    Normalization,
    Pool,
    Residual,
    Whiten,
)
from convtrain.config import Augmentation, Loss, Muon, Schedule, Sgd, Shrunk
from convtrain.datasets import Dataset, cut_validation
from convtrain.errors import RunError, TrainingError, TrainingInterruptedError
from convtrain.files import read_arrays
from convtrain.presets import Preset, find
from convtrain.runs import Data, Run, RunRecord
from convtrain.whitening import filters

pytestmark = pytest.mark.training

SMALL = find("mnist-deep").override(
    architecture=Architecture(
        layers=(Conv(filters=8, batch_norm=True), Pool(size=4), Flatten(), Dense(units=16), Dropout(rate=0.2))
    ),
    epochs=4,
    batch_size=32,
    validation_fraction=0.2,
    augmentation=Augmentation(shift_pixels=1),
    schedule=Schedule(warmup=0.2, final=0.1),
)

# Everything that the presets to serve are made of, at once.
ELABORATE = find("mnist").override(
    architecture=Architecture(
        layers=(
            Whiten(),
            Conv(filters=8, pool=2, batch_norm=True),
            Residual(layers=(Conv(filters=8, batch_norm=True),), activation="silu"),
            Dropout(rate=0.1),
            GlobalPool(kind="max"),
        ),
        initialization="identity",
    ),
    epochs=4,
    batch_size=64,
    validation_fraction=0.2,
    optimizer=Muon(),
    augmentation=Augmentation(
        rotation_degrees=5,
        elastic_pixels=0.5,
        horizontal_flip="alternating",
        shift_pixels=1,
        cutout_pixels=4,
        cutmix=0.5,
    ),
    progressive_resizing=(Shrunk(until=0.25, scale=0.5), Shrunk(until=0.5, scale=0.75)),
    weight_averaging=0.9,
)

Start = Callable[..., tuple[Run, Data]]


@pytest.fixture
def start(tmp_path: Path, mnist_sample: Dataset) -> Start:
    """Makes a new run on the sample of MNIST."""

    def make(name: str, preset: Preset = SMALL, dataset: Dataset | None = None) -> tuple[Run, Data]:
        dataset = dataset or mnist_sample
        fraction, seed = preset.training.validation_fraction, preset.training.seed
        data = Data(dataset, *cut_validation(dataset.train, fraction, seed))
        record = RunRecord(
            preset=preset,
            data_dir=None,
            check_digests=False,
            limit=None,
            command="",
            labels=list(dataset.labels),
            dataset=data.describe(),
        )
        return Run.create(tmp_path / name, record), data

    return make


def interrupt_in_epoch(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Press Ctrl-C in the middle of an epoch."""
    whole = train._run_epoch

    def partly(trainer: Any, config: Any, data: Data, epoch: int, advance: Any) -> Any:
        if epoch == number:
            steps = iter(range(3))

            def press(amount: int, description: str | None = None) -> None:
                if next(steps) == 2:
                    raise KeyboardInterrupt

            return whole(trainer, config, data, epoch, press)
        return whole(trainer, config, data, epoch, advance)

    monkeypatch.setattr(train, "_run_epoch", partly)


@pytest.mark.parametrize("preset", [SMALL, ELABORATE], ids=["small", "elaborate"])
def test_a_resumed_run_ends_like_an_unbroken_one(start: Start, monkeypatch: pytest.MonkeyPatch, preset: Preset) -> None:
    """Weights are equal to the bit: order, augmentation, dropout, moments, averages and statistics all go on."""
    unbroken, data = start("unbroken", preset)
    history = train.train(unbroken, data)
    broken, _ = start("broken", preset)
    with monkeypatch.context() as patch:
        interrupt_in_epoch(patch, 3)
        with pytest.raises(TrainingInterruptedError, match=r"2 of 4 epochs are saved, continue with --resume .*broken"):
            train.train(broken, data)
    assert not broken.weights_path.exists()
    assert len(train.read_history(broken).epochs) == 2
    resumed = train.train(broken, data)
    strip = [(epoch.loss, epoch.validation_loss, epoch.validation_accuracy) for epoch in resumed.epochs]
    assert strip == [(epoch.loss, epoch.validation_loss, epoch.validation_accuracy) for epoch in history.epochs]
    expected = read_arrays(unbroken.weights_path)
    for name, array in read_arrays(broken.weights_path).items():
        np.testing.assert_array_equal(array, expected[name])
    assert broken.history_path.read_text().count("\n") == 5


@pytest.mark.parametrize(("fails", "saved"), [(3, 2), (5, 4)], ids=["checkpoint", "weights"])
def test_a_full_disk_ends_training_with_what_is_saved(
    start: Start, monkeypatch: pytest.MonkeyPatch, fails: int, saved: int
) -> None:
    """The last checkpoint that was written is whole, and training goes on from it."""
    run, data = start("full")
    write = files.write_arrays
    written: list[Path] = []

    def fail_once(path: Path, arrays: files.Arrays) -> None:
        written.append(path)
        if len(written) == fails:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        write(path, arrays)

    with monkeypatch.context() as patch:
        patch.setattr(files, "write_arrays", fail_once)
        with pytest.raises(
            TrainingError, match=rf"full: cannot be written \(No space left on device\); {saved} of 4 epochs are"
        ):
            train.train(run, data)
    assert not run.weights_path.exists()
    assert len(train.read_history(run).epochs) == saved
    assert len(train.train(run, data).epochs) == 4
    assert run.weights_path.exists()


def test_a_full_memory_ends_training_with_what_may_help(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """A device's memory, as TensorFlow speaks of it."""
    run, data = start("large")

    def fail(*_: object) -> None:
        tf = backend.tensorflow()
        tf.raw_ops.Fill(dims=tf.constant([2**50], tf.int64), value=1.0)

    monkeypatch.setattr(train, "_run_epoch", fail)
    with pytest.raises(TrainingError, match=r"memory for batches of 32 images; a smaller --batch-size may help \(.+"):
        train.train(run, data)


def test_a_network_larger_than_the_memory_is_said_to_be(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """As when a dense layer follows a large map."""
    run, data = start("large")

    def fail(*_: object) -> None:
        tf = backend.tensorflow()
        tf.raw_ops.Fill(dims=tf.constant([2**50], tf.int64), value=1.0)

    monkeypatch.setattr(train, "_Pair", fail)
    with pytest.raises(MemoryError, match="OOM when allocating"):
        train.train(run, data)


def test_the_table_is_whole_after_a_break_between_it_and_the_checkpoint(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the break came after the last epoch, and there is none left to write it with."""
    run, data = start("cut", SMALL.override(epochs=1))

    def fail(path: Path, _: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(files, "write_bytes", fail)
        with pytest.raises(TrainingError, match=r"1 of 1 epochs are saved"):
            train.train(run, data)
    train.train(run, data)
    assert run.history_path.read_text().count("\n") == 2


def test_another_seed_gives_other_weights(start: Start) -> None:
    """The seed is not decoration."""
    first, data = start("first", SMALL.override(epochs=1))
    second, _ = start("second", SMALL.override(epochs=1, seed=2))
    train.train(first, data)
    train.train(second, data)
    assert first.weights_path.read_bytes() != second.weights_path.read_bytes()


def test_the_weights_kept_are_those_of_the_best_epoch(start: Start) -> None:
    """After steps too large to learn, the last epoch is not the best; the model that is loaded is."""
    run, data = start("best", SMALL.override(epochs=4, learning_rate=0.05))
    history = train.train(run, data)
    best = max(epoch.validation_accuracy or 0 for epoch in history.epochs)
    model = train.load_trained(run)
    found = np.asarray(model(data.validation.images)["logits"]).argmax(axis=1)
    assert float((found == data.validation.labels).mean()) == pytest.approx(best)
    # What it is called is part of the exported bytes, which are those of an export by itself.
    again = train.load_trained(run)
    assert [again.name, *(layer.name for layer in again.layers)] == [
        model.name,
        *(layer.name for layer in model.layers),
    ]


def test_a_loss_of_nan_ends_training(start: Start) -> None:
    """It says where, and what may help; what was saved before stays."""
    preset = SMALL.override(optimizer=Sgd(learning_rate=1e38), architecture=Architecture(layers=(Flatten(),)))
    run, data = start("nan", preset)
    with pytest.raises(TrainingError, match=r"the loss became (nan|inf) in epoch 1, step \d+; a lower --learning-rate"):
        train.train(run, data)
    assert not run.weights_path.exists()
    with pytest.raises(RunError, match=r"weights\.npz: cannot be read"):
        train.load_trained(run)


def test_weights_that_are_no_numbers_are_not_saved(start: Start) -> None:
    """The loss of an epoch's last step is of the weights before it: they are looked at themselves."""
    bright = Architecture(layers=(Flatten(),), normalization=Normalization(std=0.001))  # large steps
    run, data = start("last", SMALL.override(optimizer=Sgd(learning_rate=1e38), architecture=bright, batch_size=1000))
    with pytest.raises(TrainingError, match=r"weights became NaN or infinite in the last step of epoch 1; a lower"):
        train.train(run, data)
    assert not run.checkpoint_path.exists()


@pytest.mark.parametrize(
    "loss",
    [
        Loss(),
        Loss(computed_from="probabilities"),
        Loss(labels="one-hot", computed_from="probabilities"),
        Loss(labels="one-hot", label_smoothing=0.1),
    ],
)
def test_every_form_of_the_loss_learns(start: Start, loss: Loss) -> None:
    """Digits are told apart far better than by chance, whichever way cross-entropy is written."""
    run, data = start("loss", SMALL.override(loss=loss, epochs=3, optimizer=Sgd(learning_rate=0.05)))
    assert (train.train(run, data).epochs[-1].validation_accuracy or 0) > 0.4


def test_training_without_validation_keeps_the_last_epoch(start: Start) -> None:
    """There is nothing to choose by."""
    run, data = start("all", SMALL.override(validation_fraction=0.0, epochs=2))
    history = train.train(run, data)
    assert (history.best, history.epochs[-1].validation_accuracy) == (2, None)


def test_a_checkpoint_of_another_network_is_refused(start: Start) -> None:
    """Nothing is loaded by guess."""
    run, data = start("one", SMALL.override(epochs=1))
    train.train(run, data)
    other, _ = start("other", SMALL.override(architecture=Architecture(layers=(Flatten(),))))
    other.checkpoint_path.write_bytes(run.checkpoint_path.read_bytes())
    with pytest.raises(RunError, match=r"checkpoint\.npz: holds \d+ arrays of the model, the network has"):
        train.train(other, data)
    other.checkpoint_path.write_bytes(b"damaged")
    with pytest.raises(RunError, match=r"checkpoint\.npz: cannot be read"):
        train.train(other, data)


def test_a_run_ends_on_the_backend_it_began_on(start: Start) -> None:
    """Another one's epochs would be others; a run whose epochs are all trained is taken as it is."""
    run, data = start("one", SMALL.override(epochs=1))
    begun_elsewhere = replace(run, record=msgspec.structs.replace(run.record, backend="jax"))
    with pytest.raises(RunError, match=r"0 of 1 epochs are trained, with jax; .*: convtrain train --resume .*one"):
        train.train(begun_elsewhere, data)
    train.train(run, data)
    assert len(train.train(begun_elsewhere, data).epochs) == 1


def test_the_weights_kept_are_the_average(start: Start) -> None:
    """What is validated and kept lags behind what is trained, when an average is asked for, and only then."""
    for name, decay in (("average", 0.99), ("last", 0.0)):
        run, data = start(name, SMALL.override(epochs=1, weight_averaging=decay, optimizer=Sgd()))
        train.train(run, data)
        arrays = read_arrays(run.checkpoint_path)
        kept = read_arrays(run.weights_path)["weights/000"]
        assert np.array_equal(kept, arrays["best/000"])
        assert np.array_equal(kept, arrays["model/000"]) == (decay == 0.0)


def test_whitening_filters_stay_as_the_images_made_them(start: Start) -> None:
    """They come from the training images and are not trained."""
    run, data = start("whitened", ELABORATE.override(epochs=1))
    train.train(run, data)
    layer = train.load_trained(run).get_layer("whiten")
    expected = filters(data.train.images, 2, run.record.preset.architecture.normalization)
    np.testing.assert_array_equal(np.asarray(layer.kernel), expected)
    assert np.any(np.asarray(layer.bias))
