"""The manifest of a version directory: what the version is, and the proof that its files are the ones published.

`manifest.json` is written last. It holds the SHA-256 of every other file of the version, so its own digest stands for
the whole directory.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from io import BufferedReader
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from convserve.errors import ArtifactError

SCHEMA_VERSION = 1
MANIFEST_FILE = "manifest.json"
SIGNATURE_FILE = "manifest.json.sig"
ONNX_FILE = "model.onnx"
GOLDEN_FILE = "golden.npz"
INPUT_NAME = "image"
LOGITS_NAME = "logits"
PROBABILITIES_NAME = "probabilities"

PositiveInt = Annotated[int, msgspec.Meta(ge=1, le=2**63 - 1)]  # what a message can hold
Fraction = Annotated[float, msgspec.Meta(ge=0, le=1)]


class _Struct(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Frozen, and strict about unknown keys."""


class InputSpec(_Struct, frozen=True, kw_only=True):
    """Shape of one image as the model takes it: uint8 [height, width, channels]."""

    height: PositiveInt
    """Rows of pixels."""
    width: PositiveInt
    """Columns of pixels."""
    channels: Literal[1, 3]
    """1: grey. 3: red, green, blue."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """(height, width, channels)."""
        return (self.height, self.width, self.channels)

    @property
    def image_bytes(self) -> int:
        """Bytes of one packed image."""
        return self.height * self.width * self.channels


class DecodePolicy(_Struct, frozen=True, kw_only=True):
    """How an image file becomes the model's input. Pixels that come packed are taken as they are."""

    fit: Literal["stretch", "pad", "crop", "glyph"] = "stretch"
    """What happens to an image of another size: `stretch` ignores the aspect ratio, `pad` adds borders in the image's
    own border colour, `crop` cuts the longer side around the centre, `glyph` finds the strokes, scales them to 20/28 of
    the frame and puts their centre of mass in its middle, as MNIST's digits were made."""
    resample: Literal["nearest", "bilinear", "bicubic", "lanczos", "box"] = "bilinear"
    """Filter for resizing; it averages over the source pixels when it shrinks."""
    polarity: Literal["as-is", "auto"] = "as-is"
    """`auto`: the model was trained on light strokes on a dark ground, and an image with a light border is inverted."""
    background: Annotated[int, msgspec.Meta(ge=0, le=255)] = 255
    """Grey value that shows through transparent pixels, 0 (black) to 255 (white)."""


class InputStatistics(_Struct, frozen=True, kw_only=True):
    """Statistics of the training images, for telling drift. Pixel values are 0..255."""

    channel_mean: list[float]
    """Mean of each channel over all pixels of the training split."""
    channel_std: list[float]
    """Standard deviation of each channel over all pixels of the training split."""
    image_mean_histogram: list[float]
    """Share of training images by their mean pixel value, in bins of equal width over 0..255; sums to 1."""
    image_std_histogram: list[float]
    """Share of training images by the standard deviation of their pixels, bins of equal width over 0..128;
    sums to 1."""
    class_share: list[float]
    """Share of each class in the training split; sums to 1."""


class Dataset(_Struct, frozen=True, kw_only=True):
    """The data the version was trained and measured on."""

    name: str
    """Name of the data set, such as `mnist`."""
    note: str = ""
    """What a reader of the figures must know about this copy of the data."""
    train_images: PositiveInt
    """Images used for training, the validation split not counted."""
    validation_images: Annotated[int, msgspec.Meta(ge=0)]
    """Images cut from the training split to choose by."""
    test_images: PositiveInt
    """Images of the untouched test split."""
    digests: dict[str, str]
    """SHA-256 of the content, by split."""


class Parity(_Struct, frozen=True, kw_only=True):
    """How closely two forms of the model agree over the whole test split."""

    images: PositiveInt
    """Images compared."""
    max_abs_diff_probabilities: Annotated[float, msgspec.Meta(ge=0)]
    """Largest absolute difference of any probability."""
    max_abs_diff_logits: Annotated[float, msgspec.Meta(ge=0)]
    """Largest absolute difference of any logit."""
    top1_disagreements: Annotated[int, msgspec.Meta(ge=0)]
    """Images whose most probable class differs. 0 in anything that was published."""


class Golden(_Struct, frozen=True, kw_only=True):
    """The golden inputs and outputs that a server replays before it serves the version."""

    count: PositiveInt
    """Images in `golden.npz`: arrays `image`, `logits`, `probabilities`."""
    tolerances: dict[str, Annotated[float, msgspec.Meta(gt=0)]]
    """Largest absolute difference of a probability that is accepted: by device (`cpu`, `cuda`, `tensorrt`) for what
    computes in float32, by variant (`int8`) otherwise, or by both (`int8-cuda`), which comes first. The
    most probable class must be the same, unless the expected two best are closer than the tolerance."""


class Training(_Struct, frozen=True, kw_only=True):
    """How the version came to be."""

    preset: str
    """Name of the preset."""
    config: dict[str, Any]
    """The full training configuration."""
    architecture: dict[str, Any]
    """The full description of the layers."""
    seed: int
    """Seed of weights, shuffling and the validation split."""
    parameters: PositiveInt
    """Trainable and other parameters of the served model."""
    epochs: Annotated[int, msgspec.Meta(ge=0)]
    """Epochs run."""
    seconds: Annotated[float, msgspec.Meta(ge=0)]
    """Wall-clock seconds of training."""
    command: str = ""
    """The command that trained it."""
    frameworks: dict[str, str] = {}
    """Versions of the libraries that training began with, perhaps on another machine; empty in older versions."""


class VariantTrial(_Struct, frozen=True, kw_only=True):
    """What came of trying another ONNX file of the version, measured where it was published."""

    published: bool
    """Whether it was worth it; only then is the file in the version."""
    verdict: str
    """Why, in a sentence."""
    accuracy: Fraction
    """Accuracy on the test split."""
    validation_loss_points: float | None
    """Points of accuracy (percent of the images) lost against float32 on the validation split; None without one."""
    test_loss_points: float
    """Points of accuracy lost on the test split."""
    max_abs_diff_probabilities: Annotated[float, msgspec.Meta(ge=0)]
    """Largest absolute difference of any probability from float32 over the test split."""
    speedup: dict[str, Annotated[float, msgspec.Meta(gt=0)]]
    """Time of float32 over time of the variant, by batch size, one thread on a CPU."""
    load_speedup: Annotated[float, msgspec.Meta(gt=0)]
    """Time to load float32 over time to load the variant."""
    bytes: PositiveInt
    """Size of the file."""
    processor: str
    """What it was measured on."""


class Manifest(_Struct, frozen=True, kw_only=True):
    """Everything a server or a reader has to know about one version."""

    schema_version: int
    """Version of this format."""
    model: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}\Z")]
    """Name of the model."""
    version: PositiveInt
    """Number of the version; higher is newer."""
    created: str
    """Moment of publication, ISO 8601, UTC."""
    labels: Annotated[list[str], msgspec.Meta(min_length=2)]
    """Class names in the order of the output's index."""
    input: InputSpec
    """Shape of one image."""
    decode: DecodePolicy
    """How image files become input."""
    training: Training
    """How the version was made."""
    dataset: Dataset
    """What it was made from."""
    metrics: dict[str, float]
    """Figures on the test split: `accuracy` (0..1), `loss`, and others."""
    per_class_accuracy: dict[str, float] = {}
    """Accuracy on the test split by label."""
    parity: dict[str, Parity]
    """Agreement of Keras with `saved_model` and `onnx` over the test split."""
    golden: Golden
    """The vectors to replay."""
    temperature: Annotated[float, msgspec.Meta(gt=0)] = 1.0
    """Calibration temperature; the graph's probabilities are softmax(logits / temperature)."""
    statistics: InputStatistics
    """Statistics of the training images."""
    variants: dict[str, str] = {}
    """Further ONNX files by variant, such as `{"int8": "model.int8.onnx"}`."""
    trials: dict[str, VariantTrial] = {}
    """Variants that were tried, whether they are published or not."""
    frameworks: dict[str, str]
    """Versions of the libraries that exported and published it."""
    files: dict[str, Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")]]
    """SHA-256 of every other file of the version, by path relative to the version directory."""

    def __post_init__(self) -> None:
        """Check what a type cannot say."""
        if self.schema_version != SCHEMA_VERSION:
            raise ValueError(f"schema_version is {self.schema_version}; this program reads {SCHEMA_VERSION}")
        for name in (ONNX_FILE, GOLDEN_FILE):
            if name not in self.files:
                raise ValueError(f"files does not list {name}")
        for name in self.files:
            if not name or "\0" in name or Path(name).is_absolute() or ".." in Path(name).parts:
                raise ValueError(f"files lists {name!r}, which is outside the version directory or no name at all")
        statistics = self.statistics
        if len(statistics.class_share) != len(self.labels):
            raise ValueError(
                f"statistics.class_share has {len(statistics.class_share)} entries; there are {len(self.labels)} labels"
            )
        for name in ("image_mean_histogram", "image_std_histogram", "class_share"):
            shares = getattr(statistics, name)
            if not sum(shares) > 0 or min(shares) < 0:
                raise ValueError(f"statistics.{name} holds no shares: from 0 up, and not all of them 0")
        for variant, name in self.variants.items():
            if name not in self.files:
                raise ValueError(f"variants[{variant!r}] is {name!r}, which files does not list")


def read(directory: Path) -> tuple[Manifest, str]:
    """Read a version's manifest. Returns it with its own SHA-256 in hexadecimal digits.

    Raises:
        ArtifactError: there is none, or it is not a valid manifest.
    """
    content = read_bytes(directory)
    return parse(directory, content), hashlib.sha256(content).hexdigest()


def read_bytes(directory: Path) -> bytes:
    """Read a version's manifest as it lies there.

    Raises:
        ArtifactError: it cannot be read.
    """
    path = directory / MANIFEST_FILE
    try:
        return read_file(path)
    except OSError as error:
        raise ArtifactError(f"{path}: cannot be read ({error.strerror})") from error


def parse(directory: Path, content: bytes) -> Manifest:
    """Understand the manifest that was read from a directory.

    Raises:
        ArtifactError: it is not a valid one.
    """
    try:
        return msgspec.json.decode(content, type=Manifest)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise ArtifactError(f"{directory / MANIFEST_FILE}: not a valid manifest: {error}") from error


def check_place(directory: Path, manifest: Manifest, model: str, version: int) -> None:
    """Check that a manifest is of the version in whose directory it lies.

    Raises:
        ArtifactError: it is of another one, as after a copy.
    """
    if (manifest.model, manifest.version) != (model, version):
        raise ArtifactError(
            f"{directory / MANIFEST_FILE}: is of {manifest.model} version {manifest.version}, and"
            f" lies where {model} version {version} should be"
        )


def write(directory: Path, manifest: Manifest) -> None:
    """Write the manifest. It comes last: a directory without one is not a version."""
    text = msgspec.json.format(msgspec.json.encode(manifest), indent=2)
    (directory / MANIFEST_FILE).write_bytes(text + b"\n")


def sha256_file(path: Path) -> str:
    """SHA-256 of a file in hexadecimal digits."""
    with open_file(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_file(path: Path) -> bytes:
    """Read a file of a version, as `open_file` opens it."""
    with open_file(path) as file:
        return file.read()


def open_file(path: Path) -> BufferedReader:
    """Open a file of a version for reading.

    What is no file is an OSError, also where a file was when somebody looked: a pipe would be waited for.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "it is no file")
    return os.fdopen(descriptor, "rb")


def digest_files(directory: Path) -> dict[str, str]:
    """SHA-256 of every file below `directory` but manifest and signature, by relative POSIX path, sorted."""
    others = (MANIFEST_FILE, SIGNATURE_FILE)
    paths = sorted(path for path in directory.rglob("*") if path.is_file() and path.name not in others)
    return {path.relative_to(directory).as_posix(): sha256_file(path) for path in paths}


def verify_files(directory: Path, manifest: Manifest) -> None:
    """Check every listed file against its digest.

    Raises:
        ArtifactError: a file is missing or not the one published; names it.
    """
    for name, expected in manifest.files.items():
        path = directory / name
        try:
            if not stat.S_ISREG(path.stat().st_mode):  # a pipe would be waited for
                raise ArtifactError(f"{path}: is no file; the manifest lists it as one")
            actual = sha256_file(path)
        except OSError as error:
            raise ArtifactError(f"{path}: cannot be read ({error.strerror}); the manifest lists it") from error
        if actual != expected:
            raise ArtifactError(
                f"{path}: SHA-256 is {actual}, the manifest says {expected}; the file is not the one published"
            )
