"""Addresses as people write them."""

from __future__ import annotations

import socket
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

from convserve.server import listener


@pytest.mark.parametrize("host", ["::1", "[::1]", "::"])
def test_addresses_of_version_6_need_no_brackets(host: str) -> None:
    """Without them, gRPC takes the port for a part of the address."""
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        pytest.skip("NOT CHECKED: this machine has no IPv6")
    with ThreadPoolExecutor(1) as pool:
        server = grpc.server(pool)
        port = listener.bind(server, "port", host, 0, None)
        server.start()
        socket.create_connection(("::1", port), timeout=10).close()
        server.stop(0).wait(10)
