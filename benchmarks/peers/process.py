"""A peer's processes: started on the server's core, waited for, counted as a whole."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks import common
from benchmarks.peers.catalogue import PEERS, Peer, Place
from benchmarks.peers.model import Model

_READY_SECONDS = 120.0


@dataclass(frozen=True)
class Running:
    """A peer that answers."""

    pid: int
    port: int
    seconds_to_ready: float
    """From its start to the first answer that the model is ready."""

    def cpu_seconds(self) -> float:
        """CPU time of the process and its descendants, user and system."""
        ticks = 0
        for pid in _tree(self.pid):
            fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
            ticks += int(fields[11]) + int(fields[12])
        return ticks / os.sysconf("SC_CLK_TCK")

    def memory_mb(self) -> float:
        """Memory of the process and its descendants in MB; pages that several share are counted once (PSS)."""
        kilobytes = 0
        for pid in _tree(self.pid):
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    kilobytes += int(line.split()[1])
        return kilobytes * 1024 / 1e6


@contextmanager
def running(peer: Peer, model: Model) -> Iterator[Running]:
    """Start a peer and wait until its model answers; stop it in the end.

    Raises:
        RuntimeError: it ended or did not get ready; holds the end of its log.
    """
    common.compile_sources()
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made, "place")
        folder.mkdir()
        place = Place(folder, _free_port(), _free_port())
        launch = peer.launch(model, place)
        log = Path(made, "log")
        started = time.perf_counter()
        with log.open("wb") as sink:
            process = subprocess.Popen(
                ["taskset", "-c", str(common.SERVER_CORE), *launch.command],
                stdout=sink,
                stderr=subprocess.STDOUT,
                env={**os.environ, **launch.environment} if peer is PEERS[0] else _foreign(launch.environment),
                cwd=launch.folder,
                start_new_session=True,  # its children are ended with it
            )
        try:
            _await_ready(process, peer, peer.port(place), model)
            yield Running(process.pid, peer.port(place), time.perf_counter() - started)
        except TimeoutError as error:
            raise RuntimeError(f"{peer.name}: {error}; its log ends:\n{log.read_text()[-2000:]}") from error
        finally:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(15)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # some leave children behind
            process.wait()


def _await_ready(process: subprocess.Popen[bytes], peer: Peer, port: int, model: Model) -> None:
    """Ask until the model is ready.

    Raises:
        TimeoutError: it takes too long, or the process has ended.
    """
    give_up = time.monotonic() + _READY_SECONDS
    while time.monotonic() < give_up and process.poll() is None:
        if peer.dialect.is_ready(port, model):
            return
        time.sleep(0.01)
    raise TimeoutError(f"not ready after {_READY_SECONDS} s" if process.poll() is None else "ended")


def _foreign(environment: Mapping[str, str]) -> dict[str, str]:
    """Our variables but for the path of our own packages."""
    return {**{name: value for name, value in os.environ.items() if name != "PYTHONPATH"}, **environment}


def _tree(pid: int) -> list[int]:
    """A process and its descendants."""
    found = [pid]
    for one in found:
        for children in Path(f"/proc/{one}/task").glob("*/children"):
            found += map(int, children.read_text().split())
    return found


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
