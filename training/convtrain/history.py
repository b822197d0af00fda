"""Figures of a training, epoch by epoch."""

from __future__ import annotations

import csv
import io

import msgspec

from convtrain.config import TrainingConfig


class Epoch(msgspec.Struct, frozen=True, kw_only=True):
    """Figures of one epoch. The losses are what training makes small: cross-entropy with L2 and smoothing, if any."""

    epoch: int
    """Counted from 1."""
    loss: float
    """Mean over the training images, while the weights were changing."""
    accuracy: float
    """Share of training images classified rightly, while the weights were changing."""
    validation_loss: float | None
    """Mean over the validation split after the epoch; None without one."""
    validation_accuracy: float | None
    """Share of the validation split classified rightly after the epoch; None without one."""
    seconds: float
    """Wall-clock time of the epoch, validation included."""


class History(msgspec.Struct, frozen=True, kw_only=True):
    """All epochs so far, and which one's weights are kept."""

    epochs: list[Epoch] = []
    """In order."""
    best: int = 0
    """Number of the best epoch; 0 before the first."""

    @property
    def seconds(self) -> float:
        """Wall-clock time of all epochs."""
        return sum(epoch.seconds for epoch in self.epochs)

    def extended(self, epoch: Epoch) -> History:
        """Add an epoch. It is the best if none before had its validation accuracy, at a loss as low."""
        best = epoch.epoch
        if self.best and epoch.validation_accuracy is not None and epoch.validation_loss is not None:
            leader = self.epochs[self.best - 1]
            if leader.validation_accuracy is not None and leader.validation_loss is not None:
                old = (leader.validation_accuracy, -leader.validation_loss)
                new = (epoch.validation_accuracy, -epoch.validation_loss)
                best = epoch.epoch if new > old else self.best
        return History(epochs=[*self.epochs, epoch], best=best)

    def to_csv(self) -> bytes:
        """Make a table with one row for each epoch."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(Epoch.__struct_fields__)
        writer.writerows(msgspec.structs.astuple(epoch) for epoch in self.epochs)
        return text.getvalue().encode()

    def finished(self, config: TrainingConfig) -> bool:
        """Whether training is over."""
        done = len(self.epochs)
        patience = config.early_stopping_patience
        return done >= config.epochs or (patience is not None and done - self.best >= patience)
