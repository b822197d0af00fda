"""Client processes and the one that commands them."""

from __future__ import annotations

import os
import signal
import socket

import pytest

from convserve.errors import InternalError
from convserve.loadtest.dialects import Wanted
from convserve.loadtest.fleet import Fleet
from convserve.loadtest.link import Target
from convserve.loadtest.process import Load, Setup

LOAD = Load(warmup=0, seconds=60, connections=2, callers=2)


def setup(port: int) -> Setup:
    return Setup(Target("127.0.0.1", port, timeout=1), Wanted("native", "m"), [])


def test_ctrl_c_is_for_the_one_who_commands() -> None:
    """A terminal sends it to its whole process group; client processes that still load would each tell a traceback."""
    with Fleet(setup(1), 2) as fleet:
        assert all(os.getpgid(process.pid) != os.getpgid(0) for process in fleet._processes)


def test_a_process_whose_fleet_gives_up_ends_quietly(capfd: pytest.CaptureFixture[str]) -> None:
    """One could connect and waits for the start; another could not, and there will be none."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        fleet = Fleet(setup(listener.getsockname()[1]), 2)
        os.kill(fleet._processes[1].pid, signal.SIGKILL)
        with pytest.raises(InternalError, match="a client process has ended"):
            fleet.run(LOAD, lambda records: None, lambda seconds: None)
        fleet.close()
    assert capfd.readouterr().err == ""


def test_a_process_that_has_ended_is_told() -> None:
    """As an error of its own: a broken pipe is what a command ends with quietly whose reader has gone."""
    with Fleet(setup(1), 1) as fleet:
        fleet._processes[0].kill()
        fleet._processes[0].wait()
        with pytest.raises(InternalError, match="a client process has ended"):
            fleet.run(LOAD, lambda records: None, lambda seconds: None)
