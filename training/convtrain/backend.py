"""TensorFlow and Keras, opened late and quietly.

Opening them takes seconds, and much of convtrain (data sets, presets, reading manifests) does without. So modules ask
here, inside the functions that need them.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import importlib
import importlib.util
import os
import sys
import tempfile
from collections.abc import Iterator
from importlib import metadata
from types import ModuleType

from convtrain.errors import MissingExtraError

INSTALL_HINT = "pip install 'convserve[train]'"
LIBRARIES = ("tensorflow", "keras", "tf2onnx", "onnx", "onnxruntime")


def require() -> None:
    """Check that everything training needs is installed, without opening it: better now than after loading the data.

    Raises:
        MissingExtraError: a library is missing.
    """
    for name in LIBRARIES:
        if name not in sys.modules and importlib.util.find_spec(name) is None:
            raise _missing(name)


@functools.cache
def tensorflow() -> ModuleType:
    """The module `tensorflow`, with float32 meaning float32 on every device, and GPU memory taken as needed.

    Raises:
        MissingExtraError: it is not installed.
    """
    module = _open("tensorflow")
    # TF32 keeps ten bits; the parity gate would find them missing.
    module.config.experimental.enable_tensor_float_32_execution(False)
    # Without it TensorFlow takes all memory of every card, and a server beside it gets none.
    for gpu in module.config.list_physical_devices("GPU"):
        module.config.experimental.set_memory_growth(gpu, True)
    return module


@functools.cache
def keras() -> ModuleType:
    """The module `keras`, on TensorFlow, float32 and channels last, whatever the user's own configuration says.

    Raises:
        MissingExtraError: it is not installed.
    """
    tensorflow()
    os.environ["KERAS_BACKEND"] = "tensorflow"
    module = _open("keras")
    module.config.set_dtype_policy("float32")
    module.config.set_floatx("float32")
    module.config.set_image_data_format("channels_last")
    return module


def tf2onnx() -> ModuleType:
    """The module `tf2onnx`.

    Raises:
        MissingExtraError: it is not installed.
    """
    tensorflow()
    return _open("tf2onnx")


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and TensorFlow, and make TensorFlow's kernels give the same result every time."""
    keras().utils.set_random_seed(seed)
    tensorflow().config.experimental.enable_op_determinism()


@contextlib.contextmanager
def disk_errors() -> Iterator[None]:
    """What TensorFlow raises when a file cannot be written is an `OSError` outside of the block, as anywhere else."""
    errors = tensorflow().errors
    try:
        yield
    except errors.ResourceExhaustedError as error:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from error
    except errors.OpError as error:
        reason = error.message.partition("\n")[0].rpartition("}} ")[2].partition(" [Op:")[0]
        raise OSError(errno.EIO, reason) from error


def framework_versions() -> dict[str, str]:
    """Versions of the libraries that make a version directory, and of Python."""
    versions = {"python": sys.version.split()[0]}
    for name in ("convserve", *LIBRARIES, "onnxruntime-gpu", "numpy"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return versions


def _open(name: str) -> ModuleType:
    # TensorFlow's own log level does not reach what its C++ parts say before their logging is set up.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        with _held_stderr():
            return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise _missing(error.name or name) from error


def _missing(name: str) -> MissingExtraError:
    return MissingExtraError(f"training needs {name}, which is not installed: {INSTALL_HINT}")


@contextlib.contextmanager
def _held_stderr() -> Iterator[None]:
    """Hold back what native code writes to stderr; show it after all when the block fails."""
    sys.stderr.flush()
    saved = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        except BaseException:
            os.dup2(saved, 2)
            held.seek(0)
            os.write(2, held.read())
            raise
        finally:
            os.dup2(saved, 2)
            os.close(saved)
