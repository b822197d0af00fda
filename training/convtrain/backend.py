"""Keras and what it computes with, opened late and quietly.

Opening them takes seconds, and much of convtrain (data sets, presets, reading manifests) does without. So modules ask
here, inside the functions that need them. All steps run on TensorFlow; training alone runs on JAX too, where that is
what the machine with the GPU has, and the steps after it then run elsewhere.
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
from typing import Literal, TypeAlias

from convtrain.errors import MissingExtraError

INSTALL_HINT = "pip install 'convserve[train]'"
JAX_INSTALL_HINT = "pip install 'jax[cuda13]' 'keras>=3.15,<3.16', or jax for the CPU alone"
LIBRARIES = ("tensorflow", "keras", "tf2onnx", "onnx", "onnxruntime")

Backend: TypeAlias = Literal["tensorflow", "jax"]

_backend: Backend = "tensorflow"


def choose(backend: Backend) -> None:
    """Have Keras compute with a library. One process has one, so this comes before Keras is opened."""
    global _backend  # Keras itself has one backend in a process
    _backend = backend


def chosen() -> Backend:
    """What Keras computes with in this process."""
    return _backend


def require() -> None:
    """Check that everything training needs is installed, without opening it: better now than after loading the data.

    Raises:
        MissingExtraError: a library is missing.
    """
    for name in LIBRARIES if _backend == "tensorflow" else ("keras", _backend):
        if name not in sys.modules and importlib.util.find_spec(name) is None:
            raise _missing(name)


@functools.cache
def tensorflow() -> ModuleType:
    """The module `tensorflow`, with float32 meaning float32 on every device, and GPU memory taken as needed.

    Raises:
        MissingExtraError: it is not installed, or does not work with its parts or this machine's.
    """
    try:
        module = _open("tensorflow")
    except MissingExtraError:
        raise
    except Exception as error:  # ImportError most times; a protobuf of another version has errors of its own
        # TensorFlow puts a whole traceback into its error; the one behind it has the reason alone.
        reason = str(error.__context__ or error).strip().partition("\n")[0] or type(error).__name__
        raise MissingExtraError(
            f"TensorFlow does not work here ({reason}); install it anew with what fits it: {INSTALL_HINT}"
        ) from error
    # TF32 keeps ten bits; the parity gate would find them missing.
    module.config.experimental.enable_tensor_float_32_execution(False)
    # Without it TensorFlow takes all memory of every card, and a server beside it gets none.
    for gpu in module.config.list_physical_devices("GPU"):
        module.config.experimental.set_memory_growth(gpu, True)
    return module


@functools.cache
def jax() -> ModuleType:
    """The module `jax`, with float32 meaning float32 on every device, and GPU memory taken as needed.

    Raises:
        MissingExtraError: it is not installed, or does not work with its parts or this machine's devices.
    """
    # It takes three quarters of every card's memory otherwise, and a server beside it gets none.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    try:
        module = _open("jax")
        module.devices()
    except MissingExtraError:
        raise
    except Exception as error:  # RuntimeError most times, and a bare AssertionError where JAX_PLATFORMS names none
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise MissingExtraError(
            f"JAX does not work here ({reason}); see its version, that of jaxlib, and JAX_PLATFORMS if it is set"
        ) from error
    # On a GPU it multiplies float32 with the ten bits of TF32 otherwise.
    module.config.update("jax_default_matmul_precision", "float32")
    return module


@functools.cache
def keras() -> ModuleType:
    """The module `keras`, on the backend chosen, float32 and channels last, whatever the user's configuration says.

    Raises:
        MissingExtraError: it is not installed, or its backend is not.
    """
    tensorflow() if _backend == "tensorflow" else jax()
    os.environ["KERAS_BACKEND"] = _backend
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
    """Seed everything random, and make TensorFlow's kernels give the same result every time.

    JAX's do so on a CPU; on a GPU where the variable XLA_FLAGS holds --xla_gpu_deterministic_ops=true.
    """
    module = keras()
    with _held_stderr():  # Keras opens TensorFlow too, where there is one
        module.utils.set_random_seed(seed)
    if _backend == "tensorflow":
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


@contextlib.contextmanager
def memory_errors() -> Iterator[None]:
    """What Keras' library raises when a device's memory is full is a `MemoryError` outside of the block."""
    kind = tensorflow().errors.ResourceExhaustedError if _backend == "tensorflow" else jax().errors.JaxRuntimeError
    try:
        yield
    except kind as error:
        if _backend == "jax" and "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise MemoryError(str(error).partition("\n")[0]) from error


def framework_versions() -> dict[str, str]:
    """Versions of the libraries that make a version directory, and of Python."""
    return _versions("convserve", *LIBRARIES, "onnxruntime-gpu", "numpy")


def training_versions() -> dict[str, str]:
    """Versions of the libraries that train here, and of Python."""
    return _versions("convserve", "keras", *(("jax", "jaxlib") if _backend == "jax" else ("tensorflow",)), "numpy")


def _versions(*names: str) -> dict[str, str]:
    versions = {"python": sys.version.split()[0]}
    for name in names:
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
    hint = JAX_INSTALL_HINT if _backend == "jax" or name.startswith("jax") else INSTALL_HINT
    return MissingExtraError(f"training needs {name}, which is not installed: {hint}")


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
