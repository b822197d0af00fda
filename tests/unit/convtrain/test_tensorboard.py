"""TensorBoard reads what is written."""

from __future__ import annotations

from pathlib import Path

import pytest

from convtrain import backend
from convtrain.history import Epoch
from convtrain.tensorboard import EventFile

pytestmark = pytest.mark.training


def epoch(number: int) -> Epoch:
    """An epoch whose figures tell its number; the first has no validation."""
    share = None if number == 1 else 0.25
    return Epoch(
        epoch=number, loss=1 / number, accuracy=0.5, validation_loss=share, validation_accuracy=share, seconds=2.0
    )


def test_every_epoch_has_its_figures(tmp_path: Path) -> None:
    """Scalars by epoch, there as soon as the epoch is over; without a validation split there is none of it."""
    tf = backend.tensorflow()
    events = EventFile(tmp_path / "tensorboard")
    found = {}
    for number in (1, 2, 300):
        events.add(epoch(number))
        (path,) = (tmp_path / "tensorboard").iterdir()
        assert "tfevents" in path.name
        records = [tf.compat.v1.Event.FromString(one.numpy()) for one in tf.data.TFRecordDataset(str(path))]
        assert records[0].file_version == "brain.Event:2"
        assert all(1e9 < record.wall_time < 1e11 for record in records)
        found = {
            (value.tag, record.step): value.simple_value for record in records[1:] for value in record.summary.value
        }
        assert found["loss/training", number] == pytest.approx(1 / number)
    assert {key: value for key, value in found.items() if key[0] != "loss/training"} == {
        ("accuracy/training", 1): 0.5,
        ("seconds", 1): 2.0,
        **{
            (tag, number): value
            for number in (2, 300)
            for tag, value in {
                "accuracy/training": 0.5,
                "loss/validation": 0.25,
                "accuracy/validation": 0.25,
                "seconds": 2.0,
            }.items()
        },
    }


def test_there_is_no_file_without_an_epoch(tmp_path: Path) -> None:
    """A run that was finished and is looked at again has the files it had."""
    EventFile(tmp_path / "tensorboard")
    assert not list(tmp_path.iterdir())


def test_errors_of_tensorflow_s_files_are_os_errors() -> None:
    """Its own kinds go no farther: an export ends on them in one line."""
    errors = backend.tensorflow().errors
    with pytest.raises(OSError, match="No space left on device"), backend.disk_errors():
        raise errors.ResourceExhaustedError(None, None, "events.v2; No space left on device")
    place = "{{function_node __wrapped__SaveV2}} /run/export; Not a directory [Op:SaveV2]"
    with pytest.raises(OSError, match=r"^\[Errno 5\] /run/export; Not a directory$"), backend.disk_errors():
        raise errors.FailedPreconditionError(None, None, place)
