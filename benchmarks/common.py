"""What every benchmark shares: servers in their own process and core, h2load, medians and spread, conditions."""

from __future__ import annotations

import compileall
import json
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import IO, Any

import convserve
from benchmarks import processes

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks/results"
SERVER_CORE, CLIENT_CORE = 0, 1


@dataclass(frozen=True)
class Peer:
    """A server under measurement."""

    name: str
    command: Sequence[str]
    """Prints one JSON line with `grpc_port` when it is ready."""


@dataclass
class Running:
    """A peer's process."""

    pid: int
    port: int
    seconds_to_ready: float

    def cpu_seconds(self) -> float:
        """CPU time used by the process so far, user and system."""
        return processes.cpu_seconds(self.pid)

    def resident_mb(self) -> float:
        """Resident memory in MB."""
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


@cache
def compile_sources() -> None:
    """Write byte code of our package, as whatever installs it does.

    Where Python was told to write none, a checkout is compiled at every start, which takes 0.2 s.
    """
    compileall.compile_dir(Path(convserve.__file__).parent, quiet=1)


@contextmanager
def running(
    peer: Peer, *, cores: Sequence[int] = (SERVER_CORE,), stderr: int | IO[bytes] = subprocess.DEVNULL
) -> Iterator[Running]:
    """Start a peer on the server's core, or on several, and wait until it is ready."""
    compile_sources()
    started = time.perf_counter()
    pinned = ["taskset", "-c", ",".join(map(str, cores)), *peer.command]
    process = subprocess.Popen(pinned, stdout=subprocess.PIPE, stderr=stderr, text=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise RuntimeError(f"{peer.name} did not get ready: {' '.join(peer.command)}")
        yield Running(process.pid, json.loads(line)["grpc_port"], time.perf_counter() - started)
    finally:
        process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdout:
            process.stdout.close()


@dataclass(frozen=True)
class Load:
    """A closed loop: `connections` times `streams` requests in flight."""

    connections: int
    streams: int
    requests: int


def h2load(port: int, path: str, message: bytes, load: Load, *, least_reply_bytes: int = 0) -> dict[str, float]:
    """Send the same unary request again and again. Returns requests per second and latency quantiles in seconds.

    h2load counts HTTP answers and does not look at grpc-status: compare with the server's own counters, or say how many
    bytes a reply has at least, as errors have none.
    """
    body = b"\0" + len(message).to_bytes(4, "big") + message
    headers = {"content-type": "application/grpc", "te": "trailers"}
    return post(f"http://127.0.0.1:{port}{path}", body, headers, load, least_reply_bytes=least_reply_bytes)


def post(
    url: str,
    content: bytes,
    headers: Mapping[str, str],
    load: Load,
    *,
    least_reply_bytes: int = 0,
    flags: Sequence[str] = (),
) -> dict[str, float]:
    """Have h2load send the same content again and again. Returns requests per second and latency quantiles in seconds.

    Raises:
        RuntimeError: a request was not answered, or replies are shorter than they may be.
    """
    with tempfile.TemporaryDirectory() as folder:
        body, log = Path(folder, "body"), Path(folder, "log")
        body.write_bytes(content)
        command = ["taskset", "-c", str(CLIENT_CORE), "h2load", "-n", str(load.requests), "-c", str(load.connections)]
        command += ["-m", str(load.streams), "-d", str(body), f"--log-file={log}", *flags]
        for name, value in headers.items():
            command += ["-H", f"{name}: {value}"]
        command.append(url)
        ended = subprocess.run(command, capture_output=True, text=True, check=True, timeout=600)
        rate = re.search(r"finished in .*?, ([\d.]+) req/s", ended.stdout)
        good = re.search(r"(\d+) succeeded, (\d+) failed, (\d+) errored", ended.stdout)
        if rate is None or good is None or int(good[1]) != load.requests:
            raise RuntimeError(f"h2load did not get all answers:\n{ended.stdout}")
        received = re.search(r"\((\d+)\) data", ended.stdout)
        if received is None or int(received[1]) < load.requests * least_reply_bytes:
            raise RuntimeError(f"some answers were errors, {least_reply_bytes} bytes each wanted:\n{ended.stdout}")
        micros = sorted(int(line.split("\t")[2]) for line in log.read_text().splitlines())
    return {
        "requests_per_second": float(rate[1]),
        "p50_seconds": micros[len(micros) // 2] / 1e6,
        "p99_seconds": micros[int(len(micros) * 0.99)] / 1e6,
    }


def summary(values: Sequence[float]) -> dict[str, float]:
    """Median, and spread as half the range over the median."""
    middle = statistics.median(values)
    return {
        "median": middle,
        "spread": (max(values) - min(values)) / 2 / middle if middle else 0.0,
        "runs": len(values),
    }


def conditions() -> dict[str, Any]:
    """What a reader has to know about the machine and the software."""
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        platform.processor(),
    )
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=ROOT, check=False
    )
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "commit": commit.stdout.strip(),
        "cpu": model,
        "cores": os.cpu_count(),
        "load_average_before": os.getloadavg()[0],
        "python": platform.python_version(),
        **{name: version(name) for name in ("grpcio", "onnxruntime", "numpy", "protobuf")},
        "server_core": SERVER_CORE,
        "client_core": CLIENT_CORE,
    }


def write_result(name: str, result: dict[str, Any]) -> Path:
    """Keep a result with its conditions."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(result, indent=2) + "\n")
    return path


def newest(model: Path) -> Path:
    """The directory of a model's highest version."""
    return max((entry for entry in model.iterdir() if entry.name.isdigit()), key=lambda entry: int(entry.name))


def need(program: str, package: str) -> None:
    """End with a sentence when a program is missing."""
    if shutil.which(program) is None:
        sys.exit(f"{program} is not installed; on Debian: apt-get install {package}")
