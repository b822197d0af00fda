"""Which epoch is the best, and when training is over."""

from __future__ import annotations

import msgspec

from convtrain.config import TrainingConfig
from convtrain.history import Epoch, History

CONFIG = TrainingConfig(epochs=10, batch_size=1, validation_fraction=0.1, early_stopping_patience=2)


def after(*figures: tuple[float, float] | None) -> History:
    """History of epochs with these validation accuracies and losses."""
    history = History()
    for number, figure in enumerate(figures, start=1):
        accuracy, loss = figure if figure else (None, None)
        epoch = Epoch(
            epoch=number, loss=1.0, accuracy=0.5, validation_loss=loss, validation_accuracy=accuracy, seconds=2.0
        )
        history = history.extended(epoch)
    return history


def test_the_best_epoch_has_the_best_accuracy_then_the_lowest_loss() -> None:
    """A later epoch must be better, not as good."""
    assert after().best == 0
    assert after((0.5, 1.0)).best == 1
    assert after((0.5, 1.0), (0.6, 2.0), (0.4, 0.1)).best == 2
    assert after((0.5, 1.0), (0.5, 0.9)).best == 2
    assert after((0.5, 1.0), (0.5, 1.0)).best == 1


def test_without_validation_the_last_epoch_is_kept() -> None:
    """There is nothing to choose by, and nothing to stop for."""
    history = after(None, None, None)
    assert history.best == 3
    assert not history.finished(CONFIG)


def test_training_ends_when_patience_or_epochs_do() -> None:
    """Two epochs without a better one are enough here; ten end it in any case."""
    assert not after((0.5, 1.0), (0.4, 1.0)).finished(CONFIG)
    assert after((0.5, 1.0), (0.4, 1.0), (0.4, 1.0)).finished(CONFIG)
    patient = msgspec.structs.replace(CONFIG, early_stopping_patience=None)
    assert not after((0.5, 1.0), (0.4, 1.0), (0.4, 1.0)).finished(patient)
    assert after(*[(0.5, 1.0)] * 10).finished(patient)


def test_the_table_has_a_row_for_each_epoch() -> None:
    """What there was no validation for stays empty."""
    assert after((0.5, 1.0), (0.6, 0.9)).to_csv().decode().splitlines() == [
        "epoch,loss,accuracy,validation_loss,validation_accuracy,seconds",
        "1,1.0,0.5,1.0,0.5,2.0",
        "2,1.0,0.5,0.9,0.6,2.0",
    ]
    assert after(None).to_csv().decode().splitlines()[1] == "1,1.0,0.5,,,2.0"
    assert after((0.5, 1.0), (0.6, 0.9)).seconds == 4.0
