"""What shells, terminals and pipes do to a server."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from pathlib import Path

import pytest

from support.server import ServerProcess, command, serving, starting
from support.waiting import until


def test_a_terminal_that_closes_drains_too(repository: Path, tmp_path: Path) -> None:
    """However often it says so: the shell does, and then the kernel."""
    with serving(repository, tmp_path, "--drain-delay", "1") as server:
        server.process.send_signal(signal.SIGHUP)
        until(lambda: any(event["event"] == "stopping" for event in server.log_events()))
        server.process.send_signal(signal.SIGHUP)
        assert server.process.wait(20) == 0


def test_the_signal_after_it_is_the_first_that_counts(repository: Path, tmp_path: Path) -> None:
    """Whoever closes a session hangs up, and then asks once, politely."""
    with serving(repository, tmp_path, "--drain-delay", "1") as server:
        server.process.send_signal(signal.SIGHUP)
        until(lambda: any(event["event"] == "stopping" for event in server.log_events()))
        assert server.stop() == 0


def test_under_nohup_it_goes_on(repository: Path, tmp_path: Path) -> None:
    """As nohup promises."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with serving(repository, tmp_path) as server:
            server.process.send_signal(signal.SIGHUP)
            with pytest.raises(subprocess.TimeoutExpired):
                server.process.wait(0.5)
            assert server.stop() == 0
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_ready_line_that_nobody_reads_ends_no_server(repository: Path, tmp_path: Path) -> None:
    """As in `convserve serve | true`; the log has the ports too."""
    with starting(repository, tmp_path) as server:
        assert server.process.stdout is not None
        server.process.stdout.close()
        until(lambda: any(event["event"] == "serving" for event in server.log_events()))
        (server.ready,) = (event for event in server.log_events() if event["event"] == "serving")
        assert server.http("/readyz")[0] == 200
        assert server.stop() == 0
        assert any(event["event"] == "stdout cannot be written" for event in server.log_events())


@pytest.mark.parametrize("workers", [1, 2])
def test_streams_may_be_closed(repository: Path, workers: int) -> None:
    """Their numbers are not given to connections, on which native code would then write its messages."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    arguments = command(repository, "--http-port", str(port), "--workers", str(workers))
    with subprocess.Popen(["/bin/sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", *arguments], text=True) as process:
        server = ServerProcess(process, Path(os.devnull), {"http_port": port})
        try:
            until(lambda: _ready(server))
            by_thread = Path(f"/proc/{process.pid}/task").glob("*/children")
            pids = [process.pid, *(int(pid) for one in by_thread for pid in one.read_text().split())]
            streams = [Path(f"/proc/{pid}/fd/{fd}") for pid in pids for fd in (0, 1, 2)]
            assert len(streams) == (3 if workers == 1 else 9)
            assert {str(stream.readlink()) for stream in streams} == {os.devnull}
            assert server.stop() == 0
        finally:
            process.kill()


def _ready(server: ServerProcess) -> bool:
    try:
        return server.http("/readyz")[0] == 200
    except OSError:  # its port is not open yet
        return False
