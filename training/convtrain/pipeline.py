"""The steps of a run in their order; each leaves its result in the run directory for the next.

::

    train (and calibrate) -> evaluate -> export (with the parity gate) -> try variants -> report -> publish
"""

from __future__ import annotations

import contextlib
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from convserve import manifest
from convserve.manifest import ONNX_FILE, sha256_file
from convserve.signing import Signer
from convtrain import export, files, publish, train, variants
from convtrain.calibration import Calibration, calibrate
from convtrain.errors import RunError
from convtrain.evaluate import Evaluation, evaluate
from convtrain.export import ExportRecord
from convtrain.history import History
from convtrain.predictions import Predictions, from_keras, from_onnx
from convtrain.runs import Data, Run
from convtrain.variants import VariantRecord

T = TypeVar("T", Calibration, Evaluation, ExportRecord)


class Pipeline:
    """A run with its data, and with the trained model once a step needs it."""

    def __init__(self, run: Run, data: Data) -> None:
        self.run = run
        self.data = data

    def train(self) -> History:
        """Train, or go on after the last finished epoch, and choose the temperature. Raises as `train.train`."""
        history = train.train(self.run, self.data)
        with contextlib.suppress(RunError):
            self._calibration()
            return history  # it was chosen for these weights already
        validation = self.data.validation
        logits = from_keras(train.load_trained(self.run), validation.images).logits if len(validation) else None
        found = calibrate(logits, validation.labels, self._weights_sha256)
        self.run.write(self.run.calibration_path, found)
        return history

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

    def try_variants(self) -> VariantRecord:
        """Make int8 and optimised files of the export and keep those that are worth it on this machine.

        Raises:
            RunError: there is no export, or it is of other weights.
            ExportError: the disk is full.
        """
        self._exported()
        self.run.variants_path.unlink(missing_ok=True)  # its files are about to go
        result = variants.try_variants(
            self.run.export_directory,
            self.run.variants_directory,
            self.data,
            self.run.record.preset.training.seed,
        )
        self.run.write(self.run.variants_path, result)
        return result

    def report(self) -> Path:
        """Write `report.json` and `report.html`. Returns the path of the page.

        Raises:
            RunError: an earlier step is missing, or was done with other weights.
        """
        from convtrain import report  # late: it opens matplotlib

        found = report.gather(
            report.Sources(
                record=self.run.record,
                history=train.read_history(self.run),
                calibration=self._calibration(),
                evaluation=self._evaluation(),
                parity=self._exported().parity,
                trials=self._variants().trials,
                predictions=from_onnx(self.run.export_directory / ONNX_FILE, self.data.test.images),
                test=self.data.test,
            )
        )
        page = report.render(found, self.data.test.images, self.run.export_directory / ONNX_FILE)
        self.run.write(self.run.report_path, found)
        path = self.run.report_path.with_suffix(".html")
        files.write_bytes(path, page.encode())
        return path

    def publish(self, repository: Path, signer: Signer | None = None) -> Path:
        """Publish the export as the next version, signed if there is a signer. Returns its directory.

        Raises:
            RunError: an earlier step is missing, or was done with other weights.
            PublishError: as `publish.publish`.
        """
        finished = publish.Finished(
            record=self.run.record,
            data=self.data,
            history=train.read_history(self.run),
            calibration=self._calibration(),
            evaluation=self._evaluation(),
            export_directory=self.run.export_directory,
            export=self._exported(),
            variants_directory=self.run.variants_directory,
            variants=self._variants(),
        )
        return publish.publish(finished, repository, signer)

    def _calibration(self) -> Calibration:
        return self._of_these_weights(self.run.calibration_path, Calibration, "train --resume")

    def _evaluation(self) -> Evaluation:
        return self._of_these_weights(self.run.evaluation_path, Evaluation, "evaluate")

    def _exported(self) -> ExportRecord:
        found = self._of_these_weights(self.run.export_path, ExportRecord, "export")
        self._check_files(self.run.export_directory, found.files, "export")
        return found

    def _variants(self) -> VariantRecord:
        """What came of trying variants; nothing where nobody tried, or before the last export."""
        if self.run.variants_path.exists():
            found = self.run.read(self.run.variants_path, VariantRecord, "quantize")
            if found.source_sha256 == self._exported().files[ONNX_FILE]:
                self._check_files(self.run.variants_directory, found.files, "quantize")
                return found
        return VariantRecord(source_sha256="", trials={}, files={})

    def _of_these_weights(self, path: Path, kind: type[T], step: str) -> T:
        """Read what an earlier step left, which must speak of the weights there are now."""
        found = self.run.read(path, kind, step)
        if found.weights_sha256 != self._weights_sha256:
            raise RunError(f"{path}: speaks of other weights; run again: convtrain {step} {self.run.directory}")
        return found

    def _check_files(self, directory: Path, expected: dict[str, str], step: str) -> None:
        """Check that a directory holds the files that an earlier step proved, and no others."""
        changed = manifest.digest_files(directory).items() ^ expected.items()
        if changed:
            raise RunError(
                f"{directory / min(changed)[0]}: is not the file that was proved; run again: convtrain {step} "
                f"{self.run.directory}"
            )

    @cached_property
    def _model(self) -> Any:
        return train.load_trained(self.run, self._calibration().temperature)

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
