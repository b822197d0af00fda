"""Running images: what a running container offers, whoever runs it."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

ROOT = Path(__file__).parents[2]
GRPC_PORT, HTTP_PORT = 8001, 8002


@dataclass(frozen=True)
class Probe:
    """A gRPC health check as the manifest states it."""

    name: str
    port: int
    service: str


class Container(Protocol):
    """A running container, whoever runs it."""

    grpc: str
    """HOST:PORT of gRPC on this machine."""
    http: str
    """URL of HTTP on this machine."""
    probes: Sequence[Probe]
    """Health checks that its manifest wants."""

    def wait_ready(self, seconds: float) -> float:
        """Wait until whoever runs it says that it is healthy. Returns seconds."""

    def execute(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command inside."""

    def stop(self, seconds: int) -> int:
        """SIGTERM, and SIGKILL after `seconds`. Returns the exit status."""

    def log(self) -> str:
        """What it has printed."""


def run(*command: str, **options: Any) -> str:
    """Run a command that must succeed. Returns what it printed."""
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    ended = subprocess.run(command, text=True, check=False, **options)
    if ended.returncode:
        raise RuntimeError(
            f"{' '.join(command)}: status {ended.returncode}\n{ended.stdout[-3000:]}{(ended.stderr or '')[-6000:]}"
        )
    return str(ended.stdout)
