"""Every error of training that a person can do something about.

All derive from `convserve.errors.ConvserveError`, so a command line needs one `except`.
"""

from __future__ import annotations

from convserve.errors import ConvserveError


class ConvtrainError(ConvserveError):
    """Base of the errors of convtrain. The message names what came, what is wanted and what to do."""


class MissingExtraError(ConvtrainError):
    """A library is not installed; names the extra that brings it. Or it does not work; says why."""


class DatasetError(ConvtrainError):
    """A file of the data set is missing, damaged or not what it says; names the file."""


class DownloadError(DatasetError):
    """A file could not be fetched; names the address."""


class ArchitectureError(ConvtrainError):
    """Layers do not fit together; names the layer, the shape there, and a way out."""


class PresetError(ConvtrainError):
    """There is no such preset, or an overridden value is out of range."""


class RunError(ConvtrainError):
    """A run directory is missing a step or holds something else; names the file."""


class TrainingError(ConvtrainError):
    """Training cannot go on, such as after a loss of NaN."""


class TrainingInterruptedError(ConvtrainError):
    """Someone pressed Ctrl-C. The last finished epoch is saved."""


class ExportError(ConvtrainError):
    """An exported file is not what a server can run; names the file."""


class ParityError(ExportError):
    """Two forms of the model disagree; names the form, the image and by how much."""


class PublishError(ConvtrainError):
    """The version cannot be put into the model repository."""
