"""The HTTP port against callers who are slow, rude, or elsewhere."""

from __future__ import annotations

import errno
import http.client
import socket
import socketserver
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from prometheus_client import CollectorRegistry

from convserve.server import http as ours
from support.waiting import until


@contextmanager
def serving(host: str = "127.0.0.1") -> Iterator[int]:
    """A server that is ready. Gives its port."""
    server = ours.HttpServer(host, 0, CollectorRegistry(), lambda: True)
    server.start()
    try:
        yield server.port
    finally:
        server.close()


@pytest.mark.parametrize(("host", "seen_from"), [("[::1]", "::1"), ("[::]", "::1"), ("[::]", "127.0.0.1")])
def test_addresses_of_version_6(host: str, seen_from: str) -> None:
    """They are written in brackets, as gRPC wants them; `[::]` is every address of both versions."""
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        pytest.skip("NOT CHECKED: this machine has no IPv6")
    with serving(host) as port:
        connection = http.client.HTTPConnection(seen_from, port, timeout=20)
        connection.request("GET", "/livez")
        assert connection.getresponse().read() == b"ok\n"
        connection.close()


def test_a_process_without_file_descriptors_waits_for_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """It does not try again and again, which took a whole core from the calls that were there; then it answers."""
    take = socketserver.TCPServer.get_request
    tries = []

    def take_none(self: socketserver.TCPServer) -> object:
        tries.append(1)
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(socketserver.TCPServer, "get_request", take_none)
    with serving() as port:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        connection.request("GET", "/livez")
        until(lambda: bool(tries))
        threading.Event().wait(0.3)
        monkeypatch.setattr(socketserver.TCPServer, "get_request", take)
        assert connection.getresponse().read() == b"ok\n"
        assert len(tries) <= 2
        connection.close()


def test_head_is_get_without_the_body() -> None:
    """Some load balancers probe with it."""
    with serving() as port:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        connection.request("HEAD", "/readyz")
        answer = connection.getresponse()
        assert (answer.status, answer.getheader("Content-Length"), answer.read()) == (200, "3", b"")
        connection.close()


def test_an_accept_header_that_makes_no_sense_gets_the_usual_form(capfd: pytest.CaptureFixture[str]) -> None:
    """The caller had no answer, and the log a traceback each time."""
    with serving() as port:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        connection.request("GET", "/metrics", headers={"Accept": "application/openmetrics-text;version=x"})
        answer = connection.getresponse()
        assert (answer.status, answer.getheader("Content-Type", "").partition(";")[0]) == (200, "text/plain")
        assert b"convserve_ready 1.0" in answer.read()
        connection.close()
    assert capfd.readouterr().err == ""


def test_who_asks_a_byte_at_a_time_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each byte is in time for the socket; the request as a whole is not, and would hold a thread for days."""
    monkeypatch.setattr(ours, "_SECONDS_TO_ASK", 0.4)
    with serving() as port, socket.create_connection(("127.0.0.1", port), timeout=0.1) as slow:
        for _ in range(200):
            try:
                slow.sendall(b"x")
                if slow.recv(100) == b"":
                    break
            except TimeoutError:
                continue
            except OSError:
                break
        else:
            pytest.fail("the connection stayed open")


def test_many_may_come_at_the_same_moment() -> None:
    """A connection that finds no room to wait is tried again after a second, when a probe has given up already."""
    server = ours.HttpServer("127.0.0.1", 0, CollectorRegistry(), lambda: True)
    waiting: list[socket.socket] = []
    try:
        address = "127.0.0.1", server.port
        waiting.extend(socket.create_connection(address, timeout=0.5) for _ in range(50))  # nobody takes them yet
    finally:
        server.close()
        for one in waiting:
            one.close()


def test_who_hangs_up_leaves_nothing_in_the_log(capfd: pytest.CaptureFixture[str]) -> None:
    """A traceback on stderr would be no line of the log, and anybody could write as many as he likes."""
    with serving() as port:
        for request in (b"GET /liv", b"GET /livez HTTP/1.0\r\n\r\n"):
            rude = socket.create_connection(("127.0.0.1", port), timeout=20)
            rude.sendall(request)
            rude.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            rude.close()
        until(lambda: not any("process_request" in thread.name for thread in threading.enumerate()))
    assert capfd.readouterr().err == ""
