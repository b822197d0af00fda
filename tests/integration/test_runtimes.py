"""One suite for every runtime: whatever computes the bundled models must answer as published."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from convserve import manifest as m
from convserve import proving
from convserve.devices import Device, RuntimeName
from convserve.errors import ArtifactError, RuntimeNotInstalledError
from convserve.runtimes import Runtime, open_runtime
from support.server import run_to_end, serving

MODELS = Path(__file__).parents[2] / "models"


def newest(name: str) -> Path:
    return max((one for one in (MODELS / name).iterdir() if one.name.isdigit()), key=lambda one: int(one.name))


def _has_cuda() -> bool:
    import onnxruntime

    return "CUDAExecutionProvider" in onnxruntime.get_available_providers()


gpu = pytest.mark.skipif(not _has_cuda(), reason="no CUDA device, or onnxruntime was built without CUDA")
CASES = [
    pytest.param("onnxruntime", "cpu", id="onnxruntime-cpu"),
    pytest.param("tensorflow", "cpu", id="tensorflow-cpu", marks=pytest.mark.training),
    pytest.param("onnxruntime", "cuda", id="onnxruntime-cuda", marks=[pytest.mark.gpu, gpu]),
    pytest.param("tensorflow", "cuda", id="tensorflow-cuda", marks=[pytest.mark.gpu, gpu]),
]


@pytest.fixture(scope="module", params=["mnist", "cifar10"])
def loaded(
    request: pytest.FixtureRequest, runtime_kind: tuple[RuntimeName, Device]
) -> Iterator[tuple[Path, m.Manifest, Runtime]]:
    directory = newest(request.param)
    manifest, _ = m.read(directory)
    name, device = runtime_kind
    runtime = open_runtime(directory, manifest, runtime=name, device=device)
    yield directory, manifest, runtime
    runtime.close()


@pytest.fixture(scope="module")
def runtime_kind(request: pytest.FixtureRequest) -> tuple[RuntimeName, Device]:
    return request.param  # type: ignore[no-any-return]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give every test that uses a loaded runtime all kinds of them."""
    if "loaded" in metafunc.fixturenames:
        metafunc.parametrize(
            "runtime_kind",
            [pytest.param((case.values[0], case.values[1]), id=case.id, marks=case.marks) for case in CASES],
            indirect=True,
            scope="module",
        )


Loaded = tuple[Path, m.Manifest, Runtime]


def test_golden_vectors_hold_in_every_batch_size(loaded: Loaded) -> None:
    """Within the tolerance that the manifest has for the device; every size gets a time."""
    directory, manifest, runtime = loaded
    times = proving.prove(directory, manifest, runtime, [1, 3, 16])
    assert sorted(times.table()) == [1, 3, 16]


def test_outputs_have_the_promised_form(loaded: Loaded) -> None:
    """float32 [n, classes]; rows sum to one; the logits' order is the probabilities'."""
    _, manifest, runtime = loaded
    images = np.random.default_rng(0).integers(0, 256, (5, *manifest.input.shape), dtype=np.uint8)
    logits, probabilities = runtime.run(images)
    assert logits.shape == probabilities.shape == (5, len(manifest.labels))
    assert logits.dtype == probabilities.dtype == np.float32
    assert np.allclose(probabilities.sum(1), 1, atol=1e-5)
    assert (logits.argmax(1) == probabilities.argmax(1)).all()


def test_a_row_does_not_depend_on_its_company(loaded: Loaded) -> None:
    """Alone, or anywhere in a batch: the same answer."""
    directory, manifest, runtime = loaded
    golden = proving.read_golden(directory, manifest)
    images = golden.images[:9]
    together = runtime.run(images).probabilities
    tolerance = proving.tolerance_for(manifest, runtime)
    for index in range(9):
        alone = runtime.run(images[index : index + 1]).probabilities
        assert np.abs(alone[0] - together[index]).max() <= tolerance


def test_many_threads_may_run_it(loaded: Loaded) -> None:
    """Each gets its own answers."""
    directory, manifest, runtime = loaded
    golden = proving.read_golden(directory, manifest)
    tolerance = proving.tolerance_for(manifest, runtime)
    wrong: list[float] = []

    def run(start: int) -> None:
        for step in range(20):
            rows = slice((start + step) % 40, (start + step) % 40 + 4)
            difference = np.abs(runtime.run(golden.images[rows]).probabilities - golden.probabilities[rows]).max()
            if not difference <= tolerance:
                wrong.append(difference)

    threads = [threading.Thread(target=run, args=(start,)) for start in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_it_says_what_it_is(loaded: Loaded, runtime_kind: tuple[RuntimeName, Device]) -> None:
    """Provider, device and variant are those asked for."""
    _, _, runtime = loaded
    name, device = runtime_kind
    assert runtime.device == device
    assert runtime.variant == ("fp32" if name == "onnxruntime" else "saved_model")
    assert ("CUDA" if device == "cuda" else "CPU") in runtime.provider.upper().replace("GPU", "CUDA")


@pytest.mark.skipif(_has_cuda(), reason="this machine has CUDA")
@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--model-device", "cuda"), "convserve[gpu]"),
        (("--model-device", "tensorrt"), "convserve[gpu]"),
        (("--model-variant", "int8"), "has no variant 'int8'; it has: fp32"),
        (("--model-runtime", "tensorflow", "--model-variant", "int8"), "needs runtime = 'onnxruntime'"),
    ],
)
def test_what_is_missing_is_an_error_and_no_fallback(repository: Path, flags: tuple[str, ...], message: str) -> None:
    """Asking for a GPU and getting a CPU would be found out by the bill."""
    ended = run_to_end(repository, *flags)
    assert ended.returncode in (1, 2)
    assert message in ended.stderr


@pytest.mark.training
def test_a_batch_that_a_device_fails_leaves_the_device_in_place(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The wrapper of onnxruntime would say on stdout that it goes on with a CPU, and be left with no session at all."""
    from onnxruntime.capi.onnxruntime_pybind11_state import EPFail

    directory = newest("mnist")
    runtime = open_runtime(directory, m.read(directory)[0])
    images = np.zeros((2, 28, 28, 1), np.uint8)
    before = runtime.run(images)
    wrapper: Any = runtime._session  # type: ignore[attr-defined]

    session = wrapper._sess

    class Failing:
        def __getattr__(self, name: str) -> Any:
            return getattr(session, name)

        def run(self, *args: object) -> None:
            raise EPFail("CUDA failure 700: an illegal memory access")

    with monkeypatch.context() as device:
        device.setattr(wrapper, "_sess", Failing())
        with pytest.raises(EPFail, match="CUDA failure 700"):
            runtime.run(images)
    np.testing.assert_array_equal(runtime.run(images).logits, before.logits)
    assert capsys.readouterr().out == ""
    runtime.close()


def test_a_tensorflow_model_is_served(tmp_path: Path) -> None:
    """The server on TensorFlow answers as published, and says what computed it."""
    import convserve

    shutil.copytree(MODELS / "mnist", tmp_path / "repository/mnist")
    directory = newest("mnist")
    golden = proving.read_golden(directory, m.read(directory)[0])
    with (
        serving(tmp_path / "repository", tmp_path, "--model-runtime", "tensorflow") as server,
        convserve.Client(server.target) as client,
    ):
        served = client.classify_batch(golden.images, model="mnist", explain=True)
        assert [one.index for one in served] == golden.probabilities.argmax(1).tolist()
        assert served[0].batch is not None
        assert (served[0].batch.provider, served[0].batch.variant) == ("TensorFlow CPU", "saved_model")


@pytest.mark.training
def test_an_altered_saved_model_is_not_loaded(tmp_path: Path) -> None:
    """Its digest is checked after TensorFlow has read it, too."""
    shutil.copytree(newest("mnist"), tmp_path / "1")
    manifest, _ = m.read(tmp_path / "1")
    path = tmp_path / "1/saved_model.pb"
    path.write_bytes(path.read_bytes() + b"\x00")
    with pytest.raises(ArtifactError, match=r"saved_model\.pb"):
        open_runtime(tmp_path / "1", manifest, runtime="tensorflow")


def test_a_missing_runtime_names_the_extra(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Instead of a traceback."""
    import sys

    monkeypatch.setitem(sys.modules, "tensorflow", None)
    monkeypatch.delitem(sys.modules, "convserve.runtimes.tensorflow", raising=False)
    directory = repository / "stripes/1"
    with pytest.raises(RuntimeNotInstalledError, match=r"convserve\[tensorflow\]"):
        open_runtime(directory, m.read(directory)[0], runtime="tensorflow")


@pytest.mark.parametrize("modules", ["convserve.runtimes.onnx", "convtrain, onnxruntime"])
def test_onnxruntime_tells_its_makers_nothing(modules: str, tmp_path: Path) -> None:
    """By itself it leaves an identifier of the machine in the home directory, and sends events over the net."""
    environment = {"HOME": str(tmp_path), "PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-B", "-c", f"import {modules}"], env=environment, check=True, timeout=60)
    assert list(tmp_path.iterdir()) == []
