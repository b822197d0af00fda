"""How each peer is started: its environment, command and settings."""

from __future__ import annotations

import json
import os
import shutil
import sys
import sysconfig
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.peers import environments
from benchmarks.peers.dialects import Dialect, Json, OpenInference
from benchmarks.peers.model import SERVERS, Model

MAX_BATCH_SIZE = 64


@dataclass(frozen=True)
class Place:
    """What a peer may use while it runs."""

    folder: Path
    """An empty folder of its own."""
    grpc_port: int
    http_port: int


@dataclass(frozen=True)
class Launch:
    """A command and what it needs."""

    command: list[str | Path]
    environment: Mapping[str, str] = field(default_factory=dict)
    """Besides the environment of the benchmark."""
    folder: Path | None = None
    """Where it is started."""


@dataclass(frozen=True)
class Peer:
    """A server under measurement."""

    name: str
    about: str
    """Version and settings, for the reader of the figures."""
    environment: str
    """Name of the environment it lives in; empty: this one."""
    launch: Callable[[Model, Place], Launch]
    dialect: Dialect = field(default_factory=OpenInference)
    share: float = 1.0
    """Part of the requests that it is sent: slow ones would take most of the time, and are steady sooner."""
    needs: Callable[[], str] = str
    """What else it lacks; an empty text: nothing."""

    def port(self, place: Place) -> int:
        """Where it is asked."""
        return place.http_port if isinstance(self.dialect, Json) else place.grpc_port

    @property
    def missing(self) -> str:
        """Why it cannot be measured; empty when it can."""
        if self.environment and environments.python_of(self.environment) is None:
            return f"not installed; python -m benchmarks.peers.environments {self.environment}"
        return self.needs()


def _python(name: str) -> Path:
    python = environments.python_of(name)
    if python is None:
        raise RuntimeError(f"{name} is not installed")
    return python


def _convserve(model: Model, place: Place) -> Launch:
    command: list[str | Path] = [sys.executable, "-m", "convserve", "serve", "--log-level", "error"]
    ports = ["--port", str(place.grpc_port), "--http-port", str(place.http_port)]
    return Launch([*command, *ports, "--model-repository", model.directory.parents[1]])


def _triton_own(model: Model, place: Place) -> Launch:
    server = _installed_triton()
    if server is None:
        raise RuntimeError("tritonserver is gone")
    parameter = 'parameters { key: "intra_op_thread_count" value: { string_value: "1" } }'
    _triton_repository(model, place.folder / "models", f'platform: "onnxruntime_onnx"\n{parameter}')
    return Launch(_triton_command(server, server.parents[1] / "backends", place))


def _installed_triton() -> Path | None:
    """A tritonserver that somebody installed, with its ONNX Runtime backend; as in Triton's container images."""
    found = shutil.which("tritonserver")
    server = Path(found).resolve() if found else None
    return server if server and (server.parents[1] / "backends/onnxruntime").is_dir() else None


def _triton(model: Model, place: Place) -> Launch:
    python = _python("triton")
    (server,) = python.parents[1].glob("lib/python*/site-packages/pytriton/tritonserver")
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    backend = place.folder / "backends/python"
    backend.mkdir(parents=True)
    for file in (*server.glob("backends/python/*"), *server.glob(f"python_backend_stubs/{version}/*")):
        (backend / file.name).symlink_to(file)
    _triton_repository(model, place.folder / "models", 'backend: "python"')
    shutil.copyfile(SERVERS / "triton_model.py", place.folder / "models" / model.name / "1/model.py")
    libraries = [sysconfig.get_config_var("LIBDIR"), os.environ.get("LD_LIBRARY_PATH", "")]
    return Launch(
        _triton_command(server / "bin/tritonserver", place.folder / "backends", place),
        {
            "PATH": f"{python.parent}:{os.environ['PATH']}",
            "PYTHONPATH": str(server.parents[1]),
            "LD_LIBRARY_PATH": ":".join(filter(None, libraries)),  # the stub needs libpython
        },
    )


def _triton_command(server: Path, backends: Path, place: Place) -> list[str | Path]:
    return [
        server,
        f"--model-repository={place.folder / 'models'}",
        f"--backend-directory={backends}",
        "--disable-auto-complete-config",
        *("--grpc-address", "127.0.0.1", "--grpc-port", str(place.grpc_port)),
        *("--allow-http", "false", "--allow-metrics", "false"),
    ]


def _triton_repository(model: Model, repository: Path, kind: str) -> None:
    folder = repository / model.name / "1"
    folder.mkdir(parents=True)
    (folder / "model.onnx").symlink_to(model.onnx)
    shape = ", ".join(map(str, model.manifest.input.shape))
    (repository / model.name / "config.pbtxt").write_text(
        f"""name: "{model.name}"
{kind}
max_batch_size: {MAX_BATCH_SIZE}
input [ {{ name: "image" data_type: TYPE_UINT8 dims: [ {shape} ] }} ]
output [ {{ name: "probabilities" data_type: TYPE_FP32 dims: [ {model.classes} ] }} ]
instance_group [ {{ count: 1 kind: KIND_CPU }} ]
dynamic_batching {{ }}
"""
    )


def _kserve(model: Model, place: Place) -> Launch:
    flags = ["--http_port", str(place.http_port), "--grpc_port", str(place.grpc_port)]
    quiet = ["--enable_latency_logging", "false"]
    return Launch([_python("kserve"), SERVERS / "kserve_server.py", model.name, model.onnx, *flags, *quiet])


def _mlserver(max_batch_size: int, max_batch_time: float) -> Callable[[Model, Place], Launch]:
    def launch(model: Model, place: Place) -> Launch:
        server = {
            "host": "127.0.0.1",
            "http_port": place.http_port,
            "grpc_port": place.grpc_port,
            "metrics_endpoint": None,
            "parallel_workers": 0,
            "debug": False,
        }
        settings = {
            "name": model.name,
            "implementation": "mlserver_model.Classifier",
            "parameters": {"uri": str(model.onnx)},
            "max_batch_size": max_batch_size,
            "max_batch_time": max_batch_time,
        }
        (place.folder / "settings.json").write_text(json.dumps(server))
        (place.folder / "model-settings.json").write_text(json.dumps(settings))
        command: list[str | Path] = [_python("mlserver").parent / "mlserver", "start", place.folder]
        return Launch(command, {"PYTHONPATH": str(SERVERS)}, place.folder)

    return launch


def _bentoml(model: Model, place: Place) -> Launch:
    program = _python("bentoml").parent / "bentoml"
    command: list[str | Path] = [program, "serve", "bentoml_service:Classifier", "--working-dir", SERVERS]
    flags = ["--host", "127.0.0.1", "--port", str(place.http_port), "--quiet"]
    folders = {"MODEL": str(model.onnx), "BENTOML_HOME": str(place.folder), "BENTOML_DO_NOT_TRACK": "True"}
    return Launch([*command, *flags], folders, place.folder)


def _litserve(model: Model, place: Place) -> Launch:
    return Launch([_python("litserve"), SERVERS / "litserve_server.py", model.onnx, str(place.http_port)])


PEERS = (
    Peer("convserve", "this checkout, default settings", "", _convserve),
    Peer(
        "Triton, ONNX Runtime backend",
        "the tritonserver on the PATH, dynamic batching, one thread",
        "",
        _triton_own,
        needs=lambda: "" if _installed_triton() else "no tritonserver with an ONNX Runtime backend on the PATH",
    ),
    Peer(
        "Triton, Python backend",
        "Triton (2.51) of nvidia-pytriton 0.7.0, onnxruntime 1.31.1 in its Python backend, dynamic batching",
        "triton",
        _triton,
    ),
    Peer("KServe", "kserve 0.21.0 with onnxruntime 1.31.1", "kserve", _kserve),
    Peer("MLServer", "mlserver 1.7.1 with onnxruntime 1.31.1, no parallel workers", "mlserver", _mlserver(0, 0)),
    Peer(
        "MLServer, adaptive batching",
        "the same with max_batch_size 64 and max_batch_time 1 ms",
        "mlserver",
        _mlserver(MAX_BATCH_SIZE, 0.001),
    ),
    Peer(
        "BentoML",
        "bentoml 1.4.39 with onnxruntime 1.31.1, HTTP/1.1 and JSON, one worker, adaptive batching",
        "bentoml",
        _bentoml,
        Json("/classify"),
        share=0.2,
    ),
    Peer(
        "LitServe",
        "litserve 0.2.19 with onnxruntime 1.31.1, HTTP/1.1 and JSON, one worker, batches of at most 64",
        "litserve",
        _litserve,
        Json("/predict"),
        share=0.2,
    ),
)
