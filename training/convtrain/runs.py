"""A run: the directory in which one training leaves what the later steps need.

::

    run.json         what is trained, on which data; written first, never changed
    checkpoint.npz   state after the last finished epoch; what --resume continues from
    history.csv      one row for each finished epoch
    tensorboard/     the same for TensorBoard
    weights.npz      weights of the best epoch; there once training is finished
    calibration.json the temperature, chosen on the validation split
    evaluation.json  figures on the test split
    export/          SavedModel and ONNX; there once both were proved equal to the trained model
    export.json      the proof, with the digests of the files it speaks of
    variants/        faster ONNX files that passed; variants.json: what was tried, and the verdicts
    report.html      everything above as pictures and tables, for people; report.json for scripts
"""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import msgspec

from convserve import manifest
from convtrain import datasets, files
from convtrain.backend import Backend
from convtrain.datasets import Dataset, Split, cut_validation, duplicates
from convtrain.datasets.duplicates import Finding
from convtrain.errors import DatasetError, PresetError, RunError
from convtrain.presets import Preset

T = TypeVar("T", bound=msgspec.Struct)
_FILES = (
    *("run.json", "checkpoint.npz", "history.csv", "weights.npz", "calibration.json", "evaluation.json"),
    *("export.json", "variants.json", "report.json", "report.html"),
)
"""What is written into a run's directory, each beside its place first, under a name that begins with a dot."""


class RunRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What is trained, on which data."""

    preset: Preset
    """The preset with everything that was overridden."""
    data_dir: str | None
    """Where the data lay; None when they were downloaded."""
    check_digests: bool
    """Whether the data had to be the official ones."""
    limit: int | None
    """Images kept of each split, for quick tries; None keeps all."""
    command: str
    """The command that started it, without this machine's directories."""
    labels: list[str]
    """Class names in the order of their index."""
    dataset: manifest.Dataset
    """Name, sizes and digests of the data."""
    backend: Backend | None = None
    """What all epochs are trained with; None in older runs, which did not keep it."""
    frameworks: dict[str, str] = {}
    """Versions of the libraries that training began with; empty in older runs."""


@dataclass(frozen=True)
class Data:
    """The three splits of a run."""

    dataset: Dataset
    """What was loaded, after the limit."""
    train: Split
    """Images to train on, those for validation not among them."""
    validation: Split
    """Images to choose by; may be empty."""

    @property
    def test(self) -> Split:
        """Images to measure on."""
        return self.dataset.test

    @cached_property
    def duplicates(self) -> list[Finding]:
        """Images that are there in two splits, or under two labels."""
        return duplicates.find(self.train, self.validation, self.test, self.dataset.labels)

    def digests(self) -> dict[str, str]:
        """SHA-256 of the content, by split."""
        return {"train": self.train.digest(), "validation": self.validation.digest(), "test": self.test.digest()}

    def describe(self) -> manifest.Dataset:
        """Make the manifest's entry."""
        return manifest.Dataset(
            name=self.dataset.name,
            note=" ".join(filter(None, [self.dataset.note, *(found.summary for found in self.duplicates)])),
            train_images=len(self.train),
            validation_images=len(self.validation),
            test_images=len(self.test),
            digests=self.digests(),
        )


def load_data(preset: Preset, data_dir: Path | None, limit: int | None, *, check_digests: bool) -> Data:
    """Load a preset's data set and cut it into the three splits.

    Raises:
        DatasetError: a file is missing, damaged or not what it says; names it.
        PresetError: the validation split takes all images.
    """
    dataset = datasets.load(preset.dataset, data_dir, preset.input, preset.decode, check_digests=check_digests)
    seed = preset.training.seed
    if limit is not None:
        dataset = dataset.limited(limit, seed)
    fraction = preset.training.validation_fraction
    train, validation = cut_validation(dataset.train, fraction, seed)
    if not len(train):
        raise PresetError(
            f"validation_fraction is {fraction}, which leaves none of {len(dataset.train)} images to train on"
        )
    return Data(dataset, train, validation)


@dataclass(frozen=True)
class Run:
    """A run directory with its record."""

    directory: Path
    """Where the files lie."""
    record: RunRecord
    """The content of `run.json`."""

    @classmethod
    def create(cls, directory: Path, record: RunRecord) -> Run:
        """Start a run in a new directory.

        Raises:
            RunError: there is a run in the directory already, or another process is making one.
        """
        run = cls(directory, record)
        directory.mkdir(parents=True, exist_ok=True)
        with run.claimed():
            if run.record_path.exists():
                raise RunError(
                    f"{directory}: holds a run already; continue it with --resume, or choose another --run-dir"
                )
            run.write(run.record_path, record)
        return run

    @classmethod
    def open(cls, directory: Path) -> Run:
        """Open an existing run.

        Raises:
            RunError: there is none in the directory.
        """
        path = directory / "run.json"
        if not path.exists():
            raise RunError(f"{directory}: is not a run directory, there is no run.json in it")
        return cls(directory, _read(path, RunRecord))

    @property
    def record_path(self) -> Path:
        """`run.json`."""
        return self.directory / "run.json"

    @property
    def checkpoint_path(self) -> Path:
        """`checkpoint.npz`."""
        return self.directory / "checkpoint.npz"

    @property
    def history_path(self) -> Path:
        """`history.csv`."""
        return self.directory / "history.csv"

    @property
    def tensorboard_directory(self) -> Path:
        """`tensorboard/`."""
        return self.directory / "tensorboard"

    @property
    def weights_path(self) -> Path:
        """`weights.npz`."""
        return self.directory / "weights.npz"

    @property
    def calibration_path(self) -> Path:
        """`calibration.json`."""
        return self.directory / "calibration.json"

    @property
    def evaluation_path(self) -> Path:
        """`evaluation.json`."""
        return self.directory / "evaluation.json"

    @property
    def export_directory(self) -> Path:
        """`export/`."""
        return self.directory / "export"

    @property
    def export_path(self) -> Path:
        """`export.json`."""
        return self.directory / "export.json"

    @property
    def variants_directory(self) -> Path:
        """`variants/`."""
        return self.directory / "variants"

    @property
    def variants_path(self) -> Path:
        """`variants.json`."""
        return self.directory / "variants.json"

    @property
    def report_path(self) -> Path:
        """`report.json`; beside it lies `report.html`."""
        return self.directory / "report.json"

    @contextlib.contextmanager
    def claimed(self) -> Iterator[None]:
        """Keep other processes out of the directory while the block runs.

        Raises:
            RunError: another process is at work in it.
        """
        with (self.directory / ".lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # given up with the file, also when the process dies
            except BlockingIOError:
                raise RunError(f"{self.directory}: another process is at work on this run") from None
            for own in _FILES:
                for path in self.directory.glob(f".{own}.????????"):  # of a process that was killed while it wrote
                    path.unlink()
            yield

    def write(self, path: Path, content: msgspec.Struct) -> None:
        """Write one of the run's JSON files atomically."""
        files.write_bytes(path, msgspec.json.format(msgspec.json.encode(content), indent=2) + b"\n")

    def read(self, path: Path, kind: type[T], step: str) -> T:
        """Read one of the run's JSON files, which the command `step` writes.

        Raises:
            RunError: it is missing or damaged.
        """
        if not path.exists():
            raise RunError(f"{path}: there is no such file; first run: convtrain {step} {self.directory}")
        return _read(path, kind)

    def load_data(self, data_dir: Path | None = None) -> Data:
        """Load the run's data again, from another place if need be.

        Raises:
            DatasetError: the data cannot be loaded, or are not those that the run began with.
        """
        if data_dir is None and self.record.data_dir is not None:
            data_dir = Path(self.record.data_dir)
        data = load_data(self.record.preset, data_dir, self.record.limit, check_digests=self.record.check_digests)
        found, expected = data.digests(), self.record.dataset.digests
        for split, digest in expected.items():
            if found[split] != digest:
                raise DatasetError(
                    f"{data_dir or self.record.dataset.name}: the {split} split is not the one this run began with: "
                    f"SHA-256 of its content is {found[split]}, {self.record_path} says {digest}"
                )
        return data


def _read(path: Path, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except (msgspec.DecodeError, OSError) as error:
        raise RunError(f"{path}: cannot be read ({error})") from error
