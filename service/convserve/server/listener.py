"""What every gRPC listener shares: limits on connections, and how an address is bound."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import grpc

from convserve.config import LimitSettings
from convserve.errors import ConfigError

if TYPE_CHECKING:
    from convserve.server.tls import Certificates  # brings a library of ten megabytes, for those who encrypt

_HANDSHAKE_SECONDS = 10.0
"""How long a connection may take until it speaks HTTP/2, so that half-open ones do not gather."""

_MOST = 2**31 - 2
"""Largest number that gRPC takes for a limit."""


def options(limits: LimitSettings, *, shared: bool) -> list[tuple[str, Any]]:
    """Options of a gRPC server; `shared`: other processes listen on its ports too."""
    calls = min(limits.max_connections * limits.max_streams_per_connection, _MOST)
    found: list[tuple[str, Any]] = [
        ("grpc.max_receive_message_length", limits.max_message_bytes),
        ("grpc.max_send_message_length", limits.max_message_bytes),
        # Both, or gRPC refuses by chance what lies between its soft and its hard limit.
        ("grpc.max_metadata_size", limits.max_header_bytes),
        ("grpc.absolute_max_metadata_size", limits.max_header_bytes),
        ("grpc.max_concurrent_streams", limits.max_streams_per_connection),
        ("grpc.max_allowed_incoming_connections", limits.max_connections),
        # Or gRPC ends some of the calls that come faster than they are taken in, a thousand at a time, as CANCELLED.
        ("grpc.server.max_pending_requests", calls),
        ("grpc.server.max_pending_requests_hard_limit", calls),
        ("grpc.server_handshake_timeout_ms", round(_HANDSHAKE_SECONDS * 1000)),
        # Off when alone, or a second server would share the port without a word.
        ("grpc.so_reuseport", int(shared)),
    ]
    if limits.max_connection_age:
        found += [
            ("grpc.max_connection_age_ms", round(limits.max_connection_age * 1000)),
            ("grpc.max_connection_age_grace_ms", round(limits.max_connection_age_grace * 1000)),
        ]
    return found


def bind(server: grpc.Server, setting: str, host: str, port: int, certificates: Certificates | None) -> int:
    """Let a server listen. Returns the port.

    Raises:
        ConfigError: the address cannot be bound, which names `setting`; or the certificates cannot be read.
    """
    bare = ":" in host and not host.startswith("[")  # gRPC takes ::1:8001 for an address of version 6 without a port
    address = f"[{host}]:{port}" if bare else f"{host}:{port}"
    credentials = certificates.credentials() if certificates else None
    try:
        return (
            server.add_insecure_port(address) if credentials is None else server.add_secure_port(address, credentials)
        )
    except RuntimeError as error:
        raise ConfigError(f"{setting}: cannot listen on {address}; is another server running there?") from error
