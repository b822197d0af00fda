"""The steps of a run in their order; each leaves its result in the run directory for the next.

::

    train -> evaluate -> export (with the parity gate) -> publish
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

from convserve.manifest import sha256_file
from convserve.signing import Signer
from convtrain import export, publish, train
from convtrain.errors import RunError
from convtrain.evaluate import Evaluation, evaluate
from convtrain.export import ExportRecord
from convtrain.history import History
from convtrain.predictions import Predictions, from_keras
from convtrain.runs import Data, Run


class Pipeline:
    """A run with its data, and with the trained model once a step needs it."""

    def __init__(self, run: Run, data: Data) -> None:
        self.run = run
        self.data = data

    def check_place(self, repository: Path) -> None:
        """Check, before hours of training, that the run may be published there. Raises as `publish.check_place`."""
        publish.check_place(self.run.record, repository)

    def train(self) -> History:
        """Train, or go on after the last finished epoch. Raises as `train.train`."""
        return train.train(self.run, self.data)

    def evaluate(self) -> Evaluation:
        """Measure the trained model on the test split.

        Raises:
            RunError: training is not finished.
        """
        labels = self.run.record.labels
        result = evaluate(self._predictions, self.data.test.labels, labels, self._weights_sha256)
        self.run.write(self.run.evaluation_path, result)
        return result

    def export(self) -> ExportRecord:
        """Export the trained model and prove the files on the whole test split. Raises as `export.export`."""
        result = export.export(
            self._model, self.run.export_directory, self._predictions, self.data.test.images, self._weights_sha256
        )
        self.run.write(self.run.export_path, result)
        return result

    def publish(self, repository: Path, signer: Signer | None = None) -> Path:
        """Publish the export as the next version, signed if there is a signer. Returns its directory.

        Raises:
            RunError: an earlier step is missing, or was done with other weights.
            PublishError: as `publish.publish`.
        """
        evaluation = self.run.read(self.run.evaluation_path, Evaluation, "evaluate")
        exported = self.run.read(self.run.export_path, ExportRecord, "export")
        for path, digest, step in (
            (self.run.evaluation_path, evaluation.weights_sha256, "evaluate"),
            (self.run.export_path, exported.weights_sha256, "export"),
        ):
            if digest != self._weights_sha256:
                raise RunError(f"{path}: speaks of other weights; run again: convtrain {step} {self.run.directory}")
        finished = publish.Finished(
            record=self.run.record,
            data=self.data,
            history=train.read_history(self.run),
            evaluation=evaluation,
            export_directory=self.run.export_directory,
            export=exported,
        )
        return publish.publish(finished, repository, signer)

    @cached_property
    def _model(self) -> Any:
        return train.load_trained(self.run)

    @cached_property
    def _predictions(self) -> Predictions:
        return from_keras(self._model, self.data.test.images)

    @property
    def _weights_sha256(self) -> str:
        if not self.run.weights_path.exists():
            raise RunError(
                f"{self.run.weights_path}: training is not finished; run: convtrain train --resume {self.run.directory}"
            )
        return sha256_file(self.run.weights_path)
