"""A real server in its own process, on free ports."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any


@dataclass
class ServerProcess:
    """A running server."""

    process: subprocess.Popen[str]
    log_file: Path
    ready: dict[str, Any] = field(default_factory=dict)

    @property
    def target(self) -> str:
        """Address for gRPC clients."""
        return f"127.0.0.1:{self.ready['grpc_port']}"

    @property
    def log(self) -> str:
        """Everything logged so far."""
        return self.log_file.read_text()

    def log_events(self) -> list[dict[str, Any]]:
        """The log's lines, decoded; not one that is just being written."""
        return [json.loads(line) for line in self.log.splitlines(keepends=True) if line.endswith("\n")]

    def http(self, path: str) -> tuple[int, str]:
        """GET a path. Returns status and body."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.ready['http_port']}{path}", timeout=10) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def metric(self, name: str, **labels: str) -> float:
        """Sum of the samples of a metric that have these labels."""
        total = 0.0
        for line in self.http("/metrics")[1].splitlines():
            if line.startswith((f"{name}{{", f"{name} ")) and all(f'{k}="{v}"' in line for k, v in labels.items()):
                total += float(line.rsplit(" ", 1)[1])
        return total

    def stop(self, timeout: float = 30) -> int:
        """SIGTERM, and wait. Returns the exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout)


def command(repository: Path, *flags: str) -> list[str]:
    """The command line of a server on free ports; with TEST_PUBLIC_PATH set, one without the fast lane."""
    lane = ("--fast-lane", "false") if os.environ.get("TEST_PUBLIC_PATH") and "--fast-lane" not in flags else ()
    return [
        *(sys.executable, "-m", "convserve", "serve", "--model-repository", str(repository)),
        *("--port", "0", "--http-port", "0", "--log-format", "json", *lane, *flags),
    ]


@contextmanager
def serving(repository: Path, log_dir: Path, *flags: str) -> Iterator[ServerProcess]:
    """Run a server until the block ends; it is ready when the block begins."""
    with starting(repository, log_dir, *flags) as server:
        assert server.process.stdout is not None
        line = server.process.stdout.readline()
        assert line, f"the server did not get ready:\n{server.log}"
        server.ready = json.loads(line)
        yield server


@contextmanager
def starting(repository: Path, log_dir: Path, *flags: str) -> Iterator[ServerProcess]:
    """Run a server until the block ends; when the block begins, its process has just begun."""
    log_file = log_dir / "server.log"
    with log_file.open("w") as log:
        server = ServerProcess(_start(command(repository, *flags), log), log_file)
        try:
            yield server
        finally:
            server.process.kill()
            server.process.wait()
            if server.process.stdout:
                server.process.stdout.close()


def run_to_end(repository: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    """Run a server that is expected to end by itself."""
    return subprocess.run(
        command(repository, *flags), capture_output=True, text=True, timeout=60, check=False, env=_environment()
    )


def _start(arguments: list[str], log: IO[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=log, text=True, env=_environment())


def _environment() -> dict[str, str]:
    """This process's variables without settings that would reach the server."""
    return {name: value for name, value in os.environ.items() if not name.startswith("CONVSERVE_")}
