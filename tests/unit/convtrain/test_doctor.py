"""`convtrain doctor` says what training would use, and what is wrong."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
from collections import namedtuple

import pytest

from convtrain import backend
from convtrain.cli import run
from convtrain.errors import MissingExtraError

Usage = namedtuple("Usage", ["total", "used", "free"])


@pytest.mark.training
def test_it_shows_what_will_be_used(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Libraries, devices, memory, BLAS and oneDNN, as text and for scripts."""
    monkeypatch.setattr(shutil, "which", lambda name: None)  # a machine with a driver and no libraries is a problem
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(2**40, 0, 2**40))
    assert run(["doctor"]) == 0
    text = capsys.readouterr().out
    for name in ("tensorflow", "oneDNN", "memory", "NumPy's BLAS", "will use", "float32, deterministic", "JAX  "):
        assert name in text
    assert run(["doctor", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["gpus"] == [gpu.name for gpu in backend.tensorflow().config.list_physical_devices("GPU")]
    assert found["memory_bytes"] > 2**28
    assert found["jax_devices"] == [device.device_kind for device in backend.jax().devices()]
    assert found["problems"] == []


def test_problems_are_named(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing library with the command that brings it, and a full disk."""
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda wanted: None if wanted == "tensorflow" else find(wanted))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(2**40, 2**40, 2**29))
    assert run(["doctor"]) == 1
    text = capsys.readouterr().out
    assert "PROBLEM     not installed: tensorflow; pip install 'convserve[train]'" in text
    assert "PROBLEM     0.5 GiB are free on this disk, a training wants 2" in text


@pytest.mark.parametrize("error", [RuntimeError("jaxlib is too old"), AssertionError()])
def test_a_jax_that_does_not_work_is_a_problem(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """Not the end of the command that is there to say so; training says it too."""

    def fail(name: str) -> None:
        raise error

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "tensorflow" else object())
    monkeypatch.setattr(backend, "_open", fail)
    backend.jax.cache_clear()
    assert run(["doctor"]) == 1
    problem = rf"PROBLEM     JAX does not work here \({str(error) or 'AssertionError'}\)"
    assert re.search(problem, capsys.readouterr().out)
    with pytest.raises(MissingExtraError, match="JAX does not work here"):
        backend.jax()


def test_a_tensorflow_that_does_not_work_is_a_problem(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where a library of the system is missing; the reason is inside of TensorFlow's own traceback."""

    def fail(name: str) -> None:
        error = ImportError("Traceback (most recent call last):\n  File ...\nFailed to load the native runtime.")
        error.__context__ = ImportError("libz.so.1: cannot open shared object file")
        raise error

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "jax" else object())
    monkeypatch.setattr(backend, "_open", fail)
    backend.tensorflow.cache_clear()
    assert run(["doctor"]) == 1
    problem = "PROBLEM     TensorFlow does not work here (libz.so.1: cannot open shared object file); install it anew"
    assert problem in capsys.readouterr().out
    with pytest.raises(MissingExtraError, match="TensorFlow does not work here"):
        backend.tensorflow()
