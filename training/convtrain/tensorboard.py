"""Figures of the epochs for TensorBoard: TensorFlow alone writes them, `pip install tensorboard` shows them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

from convtrain import backend
from convtrain.history import Epoch


@contextlib.contextmanager
def log(directory: Path) -> Iterator[Callable[[Epoch], None]]:
    """Open a new event file in `directory`; yields the function that adds an epoch's figures to it.

    A resumed run goes on in a file of its own. An epoch that was cut off and trained again has the same figures. With
    JAX there may be no TensorFlow to write events with, so there are none; `history.csv` has the same figures.

    Raises:
        OSError: the file cannot be written.
    """
    if backend.chosen() == "jax":
        yield lambda _: None
        return
    tf = backend.tensorflow()
    metadata = tf.compat.v1.SummaryMetadata(plugin_data={"plugin_name": "scalars"})
    with backend.disk_errors():
        writer = tf.summary.create_file_writer(str(directory))

    def write(epoch: Epoch) -> None:
        figures = {
            "loss/training": epoch.loss,
            "accuracy/training": epoch.accuracy,
            "loss/validation": epoch.validation_loss,
            "accuracy/validation": epoch.validation_accuracy,
            "seconds": epoch.seconds,
        }
        with backend.disk_errors(), tf.device("CPU:0"), writer.as_default(step=epoch.epoch):
            for name, value in figures.items():
                if value is not None:
                    tf.summary.write(name, tf.constant(value, tf.float32), metadata=metadata)
            writer.flush()

    try:
        yield write
    finally:
        with backend.disk_errors():
            writer.close()
