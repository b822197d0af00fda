"""TensorBoard reads what is written."""

from __future__ import annotations

from pathlib import Path

import pytest

from convtrain import backend, tensorboard
from convtrain.history import Epoch

pytestmark = pytest.mark.training


def test_every_epoch_has_its_figures(tmp_path: Path) -> None:
    """Scalars by epoch, there as soon as the epoch is over; without a validation split there is none of it."""
    tf = backend.tensorflow()
    with tensorboard.log(tmp_path) as log:
        for number in (1, 2):
            log(
                Epoch(
                    epoch=number,
                    loss=1 / number,
                    accuracy=0.5,
                    validation_loss=None,
                    validation_accuracy=None if number == 1 else 0.25,
                    seconds=2.0,
                )
            )
            (path,) = tmp_path.iterdir()
            found = {}
            for record in tf.data.TFRecordDataset(str(path)):
                event = tf.compat.v1.Event.FromString(record.numpy())
                for value in event.summary.value:
                    assert value.metadata.plugin_data.plugin_name == "scalars"
                    found[value.tag, event.step] = float(tf.make_ndarray(value.tensor))
            assert found["loss/training", number] == 1 / number
    assert found == {
        ("loss/training", 1): 1.0,
        ("accuracy/training", 1): 0.5,
        ("seconds", 1): 2.0,
        ("loss/training", 2): 0.5,
        ("accuracy/training", 2): 0.5,
        ("accuracy/validation", 2): 0.25,
        ("seconds", 2): 2.0,
    }


def test_a_file_that_cannot_be_written_is_an_os_error(tmp_path: Path) -> None:
    """TensorFlow's own kinds of errors go no farther: a training ends on them with a word about what is saved."""
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"^\[Errno 5\] Not a directory$"), tensorboard.log(tmp_path / "file"):
        pass
    errors = backend.tensorflow().errors
    with pytest.raises(OSError, match="No space left on device"), backend.disk_errors():
        raise errors.ResourceExhaustedError(None, None, "events.v2; No space left on device")
