"""Figures of the epochs for TensorBoard, which `pip install tensorboard` brings; written without it and its libraries.

An event file holds records of the message `Event`. Its fields, and those of the messages in it, are written by number::

    Event    1 wall_time, double; 2 step, varint; 3 file_version, text; 5 summary, Summary
    Summary  1 value, Value, repeated
    Value    1 tag, text; 2 simple_value, float

Source: TensorFlow's event.proto and summary.proto.
"""

from __future__ import annotations

import os
import struct
import time
from pathlib import Path

from convtrain import tfrecord
from convtrain.history import Epoch


class EventFile:
    """A file of events, there once an epoch is added.

    A resumed run goes on in a file of its own. An epoch that was cut off and trained again has the same figures.
    """

    def __init__(self, directory: Path) -> None:
        """`directory` is the run's for TensorBoard."""
        self._path = directory / f"events.out.tfevents.{time.time():.0f}.{os.getpid()}"

    def add(self, epoch: Epoch) -> None:
        """Add an epoch's figures.

        Raises:
            OSError: the file cannot be written.
        """
        figures = {
            "loss/training": epoch.loss,
            "accuracy/training": epoch.accuracy,
            "loss/validation": epoch.validation_loss,
            "accuracy/validation": epoch.validation_accuracy,
            "seconds": epoch.seconds,
        }
        values = (
            _text(1, tag) + b"\x15" + struct.pack("<f", value) for tag, value in figures.items() if value is not None
        )
        summary = b"".join(_bytes(1, value) for value in values)
        records = [_event(epoch.epoch, _bytes(5, summary))]
        if not self._path.exists():
            self._path.parent.mkdir(exist_ok=True)
            records.insert(0, _event(0, _text(3, "brain.Event:2")))
        with self._path.open("ab") as file:
            file.write(tfrecord.encode(records))


def _event(step: int, content: bytes) -> bytes:
    return b"\x09" + struct.pack("<d", time.time()) + b"\x10" + _varint(step) + content


def _text(field: int, text: str) -> bytes:
    return _bytes(field, text.encode())


def _bytes(field: int, content: bytes) -> bytes:
    return bytes([field << 3 | 2]) + _varint(len(content)) + content


def _varint(number: int) -> bytes:
    """A number in groups of seven bits, lowest first; all groups but the last have the eighth bit."""
    groups = [number & 0x7F]
    while number := number >> 7:
        groups[-1] |= 0x80
        groups.append(number & 0x7F)
    return bytes(groups)
