"""What a container's HEALTHCHECK runs."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from convserve.server import probe
from convserve.server.http import HttpServer


class Readiness:
    ready = False

    def __call__(self) -> bool:
        return self.ready


@pytest.fixture
def readiness() -> Readiness:
    return Readiness()


@pytest.fixture
def port(readiness: Readiness) -> Iterator[int]:
    server = HttpServer("127.0.0.1", 0, CollectorRegistry(), readiness)
    server.start()
    yield server.port
    server.close()


@pytest.mark.parametrize("host", ["0.0.0.0", "127.0.0.1"])
def test_it_follows_readiness(
    host: str, port: int, readiness: Readiness, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Status 1 until the server is ready, then 0; a server that listens everywhere is asked on loopback."""
    monkeypatch.setenv("CONVSERVE_HOST", host)
    monkeypatch.setenv("CONVSERVE_HTTP_PORT", str(port))
    assert probe.main([]) == 1
    assert capsys.readouterr().out == "not ready\n"
    readiness.ready = True
    assert probe.main([]) == 0


def test_a_process_that_loads_is_alive(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """`livez` does not depend on readiness."""
    monkeypatch.setenv("CONVSERVE_HTTP_PORT", str(port))
    assert probe.main(["livez"]) == 0


def test_it_reads_the_servers_file(
    port: int, readiness: Readiness, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The port is found where the server finds it."""
    readiness.ready = True
    file = tmp_path / "convserve.toml"
    file.write_text(f"http_port = {port}\n")
    monkeypatch.setenv("CONVSERVE_CONFIG", str(file))
    assert probe.main([]) == 0


def test_nobody_there_is_no(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A port without a server, and one that speaks something else, are status 1 with a reason."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        monkeypatch.setenv("CONVSERVE_HTTP_PORT", str(port))
        assert probe.main(["--timeout", "0.05"]) == 1
    assert probe.main([]) == 1
    assert str(port) in capsys.readouterr().err


def test_wrong_settings_are_no(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A setting that the server refuses is named here too."""
    monkeypatch.setenv("CONVSERVE_HTTP_PORT", "many")
    assert probe.main([]) == 1
    assert "CONVSERVE_HTTP_PORT" in capsys.readouterr().err
