"""Downloads, against a server of our own: whole, broken off, resumed, wrong."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from convtrain.datasets.download import CHUNK_BYTES, fetch
from convtrain.errors import DownloadError

CONTENT = bytes(range(256)) * 2000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@dataclass
class Server:
    """What the server does, and what it was asked."""

    url: str = ""
    honour_range: bool = True
    break_after: int | None = None
    status: int | None = None
    wrong_range: bool = False
    ranges: list[str | None] = field(default_factory=list)
    sent: int = 0


@pytest.fixture
def server() -> Iterator[Server]:
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked = self.headers.get("Range")
            state.ranges.append(asked)
            if state.status is not None:
                self.send_error(state.status)
                return
            start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked and state.honour_range else 0
            if start and start >= len(CONTENT):
                self.send_error(416)
                return
            body = CONTENT[start:]
            self.send_response(206 if start else 200)
            if start:
                first = start + 1 if state.wrong_range else start
                self.send_header("Content-Range", f"bytes {first}-{len(CONTENT) - 1}/{len(CONTENT)}")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            part = body[: state.break_after]
            state.sent += len(part)  # before the client can have seen the last byte
            self.wfile.write(part)

        def log_message(self, *_: object) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.url = f"http://127.0.0.1:{http.server_port}/file.bin"
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield state
    http.shutdown()
    thread.join()
    http.server_close()


def test_a_file_arrives_whole_and_only_once(server: Server, tmp_path: Path) -> None:
    """The second call finds it there and asks nobody."""
    destination = tmp_path / "cache/file.bin"
    assert fetch(server.url, destination, SHA256) == destination
    assert destination.read_bytes() == CONTENT
    fetch(server.url, destination, SHA256)
    assert server.ranges == [None]
    assert not (tmp_path / "cache/file.bin.part").exists()


def test_a_file_that_was_damaged_since_is_fetched_again(server: Server, tmp_path: Path) -> None:
    """By a power cut, or a disk: who asks for it would be told that it is damaged, each time."""
    destination = tmp_path / "file.bin"
    destination.write_bytes(CONTENT[:1000])
    assert fetch(server.url, destination, SHA256) == destination
    assert destination.read_bytes() == CONTENT


def test_after_a_break_only_the_rest_is_asked_for(server: Server, tmp_path: Path) -> None:
    """What came before the break is kept, and no byte travels twice."""
    destination = tmp_path / "file.bin"
    server.break_after = 2 * CHUNK_BYTES
    with pytest.raises(DownloadError, match="131,072 bytes are kept"):
        fetch(server.url, destination, SHA256)
    assert not destination.exists()
    server.break_after = None
    fetch(server.url, destination, SHA256)
    assert destination.read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=131072-"]
    assert server.sent == len(CONTENT)


def test_a_server_without_ranges_starts_over(server: Server, tmp_path: Path) -> None:
    """What is sent from the beginning replaces what was kept."""
    (tmp_path / "file.bin.part").write_bytes(b"old")
    server.honour_range = False
    assert fetch(server.url, tmp_path / "file.bin", SHA256).read_bytes() == CONTENT


def test_a_complete_part_needs_no_more_bytes(server: Server, tmp_path: Path) -> None:
    """A process that died between the last byte and the rename costs nothing."""
    (tmp_path / "file.bin.part").write_bytes(CONTENT)
    assert fetch(server.url, tmp_path / "file.bin", SHA256).read_bytes() == CONTENT
    assert server.sent == 0


def test_wrong_content_is_thrown_away(server: Server, tmp_path: Path) -> None:
    """A file with another digest never gets its name, and does not spoil the next try."""
    (tmp_path / "file.bin.part").write_bytes(b"x" * 1000)
    with pytest.raises(DownloadError, match=r"file\.bin: SHA-256 of the 512,000 bytes received"):
        fetch(server.url, tmp_path / "file.bin", SHA256)
    assert fetch(server.url, tmp_path / "file.bin", SHA256).read_bytes() == CONTENT


def test_refusals_name_the_address(server: Server, tmp_path: Path) -> None:
    """A missing file, a wrong range and a dead server are errors that say what to do."""
    server.status = 404
    with pytest.raises(DownloadError, match=r"file\.bin: download failed \(404.*--data-dir"):
        fetch(server.url, tmp_path / "file.bin", SHA256)
    server.status, server.wrong_range = None, True
    (tmp_path / "file.bin.part").write_bytes(CONTENT[:10])
    with pytest.raises(DownloadError, match="another range"):
        fetch(server.url, tmp_path / "file.bin", SHA256)
    with pytest.raises(DownloadError, match="download failed"):
        fetch("http://127.0.0.1:9/file.bin", tmp_path / "other.bin", SHA256)


def test_two_at_once_download_once(server: Server, tmp_path: Path) -> None:
    """The second waits for the first and takes its file."""
    threads = [threading.Thread(target=fetch, args=(server.url, tmp_path / "file.bin", SHA256)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert server.sent == len(CONTENT)
    assert (tmp_path / "file.bin").read_bytes() == CONTENT
