"""What a real server's log says of requests, and what it never says."""

from __future__ import annotations

import base64
import socket
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from convserve import Client
from convserve.errors import ConvserveError
from convserve.loadtest import http2
from support import foreign, versions, waiting
from support import server as servers


def requests(server: servers.ServerProcess) -> list[dict[str, Any]]:
    """The lines of the access log, by now."""
    return [event for event in server.log_events() if event["event"] == "request"]


def test_requests_have_lines_with_their_ids(repository: Path, tmp_path: Path) -> None:
    """Every dialect's, successful or not, under the id that the caller knows; health checks have none."""
    with servers.serving(repository, tmp_path, "--access-log-share", "1") as server:
        with Client(server.target, retry=None) as client:
            one = client.classify(versions.random_images(1)[0], model="stripes")
            with pytest.raises(ConvserveError) as missing:
                client.classify(versions.random_images(1)[0], model="nothing")
        with grpc.insecure_channel(server.target) as channel:
            foreign.oip(channel, "ServerReady")
            metadata = (("x-request-id", "from-elsewhere"),)
            foreign.infer(channel, foreign.infer_request(versions.random_images(3)), metadata=metadata)
        waiting.until(lambda: len(requests(server)) >= 3)
        first, second, third = requests(server)
    assert (first["request_id"], first["code"], first["rows"], first["version"]) == (one.request_id, "OK", 1, 1)
    assert (second["request_id"], second["code"]) == (missing.value.request_id, "NOT_FOUND")
    assert second["model"] == ""  # a name that matched nothing is not repeated
    assert (third["request_id"], third["api"], third["rows"]) == ("from-elsewhere", "open_inference", 3)


def test_callers_write_no_lines_of_their_own(repository: Path, tmp_path: Path) -> None:
    """GRPC's own log quotes metadata that are not UTF-8, tokens too, and what a caller gives as his reason to go."""
    forged = b'{"event": "forged"}'
    with servers.serving(repository, tmp_path, "--log-level", "debug") as server:
        connection = http2.Connection(
            "localhost",
            "/convserve.v1.ClassificationService/Classify",
            60,
            # As they are on the wire: what is not UTF-8 has to get past the encoder, which takes bytes too.
            [("authorization", b"Bearer do-not-tell \xff"), ("grpc-previous-rpc-attempts", "do-not-tell")],  # type: ignore[list-item]
        )
        connection.send(http2.frame_message(b""))
        reason = bytes(8) + b"\n" + forged + b"\n"
        frame = len(reason).to_bytes(3, "big") + b"\7\0\0\0\0\0" + reason  # GOAWAY
        host, _, port = server.target.partition(":")
        with socket.create_connection((host, int(port)), timeout=60) as wire:
            wire.sendall(connection.output + frame)
            while wire.recv(65536):
                pass
        with grpc.insecure_channel(server.target) as channel, pytest.raises(grpc.RpcError):
            foreign.call(channel, "grpc.health.v1.Health/Check", b"\xff", type(None))
        assert server.stop() == 0
    assert "Traceback" not in server.log
    assert "do-not-tell" not in server.log
    assert "forged" not in server.log
    assert server.log_events()[-1]["event"] == "stopped"  # every line is one of ours


@pytest.mark.parametrize("form", ["json", "text"])
def test_no_image_is_ever_in_the_log(repository: Path, tmp_path: Path, form: str) -> None:
    """Neither pixels nor files, of requests that succeed, that are refused, and that break the server's own code."""
    secret = np.frombuffer(b"do-not-tell-" * 5 + b"abcd", np.uint8).reshape(8, 8, 1)
    file = b"not an image: do-not-tell-" + bytes(range(256))
    flags = ["--access-log-share", "1", "--log-level", "debug", "--log-format", form, "--traces", "console"]
    with servers.serving(repository, tmp_path, *flags) as server:
        with Client(server.target, retry=None) as client:
            client.classify(secret, model="stripes")
            with pytest.raises(ConvserveError):
                client.classify(file, model="stripes")
            with pytest.raises(ConvserveError):
                client.classify(secret, model="nothing")
            with pytest.raises(ConvserveError):
                client.classify(np.tile(secret, (2, 2, 1)), model="stripes")
        with grpc.insecure_channel(server.target) as channel, pytest.raises(grpc.RpcError):
            foreign.call(channel, f"{foreign.OIP}/ModelInfer", b"\x00" + file, type(None))
        waiting.until(lambda: server.log.count("INVALID_ARGUMENT") >= 2)
        assert server.stop() == 0
    raw = bytes(secret.ravel())
    for form_of_it in (
        "do-not-tell",
        raw.hex(),
        base64.b64encode(raw).decode()[:40],
        str(secret.ravel().tolist())[:40],
    ):
        assert form_of_it not in server.log
