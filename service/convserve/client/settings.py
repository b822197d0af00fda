"""What both clients are told when they are made, checked, and what follows from it for gRPC."""

from __future__ import annotations

import json
import math
import re
import uuid
from dataclasses import dataclass
from typing import Any

import grpc

from convserve import __version__
from convserve.client import security, tracing
from convserve.client.retry import Retry
from convserve.client.security import Tls, Token
from convserve.client.status import REQUEST_ID_KEY
from convserve.errors import ConfigError, InvalidRequestError

DEFAULT_TIMEOUT = 10.0
"""Seconds an RPC may take when the caller says nothing."""

DEFAULT_MAX_MESSAGE_BYTES = 64 * 2**20
"""Bytes of one message, in either direction: the server's default."""

DEFAULT_CONNECTIONS = 4
"""Connections to each address. The kernel spreads them over a server's workers by chance: with 4, both of two workers
are reached 7 times out of 8. In a rough trial on a busy machine (one run each with 1 and 2 workers) a lone caller's
median was alike with 1, 2 and 4 of them and higher with 8; throughput told them not apart."""

RPCS_IN_FLIGHT = 4
"""RPCs of one big batch under way at a time: the server always has the next rows, and others find room in its queue."""

_ID_LENGTH = 128
"""Characters of a request id that the server takes over."""

_FOREVER = 10 * 365 * 86400.0

SERVING = b"\x08\x01"
"""A `grpc.health.v1.HealthCheckResponse` whose status is SERVING, as it travels."""

HEALTH_CHECK = "/grpc.health.v1.Health/Check"
"""The method that is asked for it. Without serializers: bytes go out, bytes come in."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The arguments of `Client` and `AsyncClient`, which document them."""

    target: str
    timeout: float
    max_message_bytes: int
    connections: int
    retry: Retry | None
    wait_for_ready: bool
    health_check: bool
    tls: Tls | None
    token: Token | None
    plaintext_token: bool

    def __post_init__(self) -> None:
        """Check what can be checked without a connection.

        Raises:
            ConfigError: names the argument, what came and what is wanted.
        """
        if not self.target:
            raise ConfigError("target is empty; give HOST:PORT")
        if _has_wrong_port(self.target):
            raise ConfigError(f"target is {self.target}; ports are 0 to 65535")
        if not self.timeout > 0:
            raise ConfigError(f"timeout is {self.timeout}; it must be above 0 seconds")
        if not 8192 <= self.max_message_bytes < 2**31:
            raise ConfigError(f"max_message_bytes is {self.max_message_bytes}; it must be 8192 to {2**31 - 1}")
        if not 1 <= self.connections <= 256:
            raise ConfigError(f"connections is {self.connections}; it must be 1 to 256")
        plain = self.tls is None and not security.is_local(self.target)
        if isinstance(self.token, str):
            security.authorization(self.token)
        if self.token is not None and plain and not self.plaintext_token:
            raise ConfigError(
                f"token: would travel to {self.target} unencrypted; set tls=True, or plaintext_token=True if"
                " something else encrypts the way, such as a mesh"
            )

    def seconds(self, timeout: float | None) -> float:
        """How long a call may take that was given this timeout."""
        return self.timeout if timeout is None else timeout

    def channel_options(self, *, health_check: bool) -> list[tuple[str, Any]]:
        """Options of every channel.

        `round_robin` uses all addresses of a name; with health checks it leaves out those that say NOT_SERVING, and
        those that have no health service count as healthy. gRPC's own retry policy stays off: it cannot read
        RetryInfo, does not know the other connections, and would multiply with ours. Its transparent retries, of
        calls that no server has seen, are on by themselves.
        """
        config: dict[str, Any] = {"loadBalancingConfig": [{"round_robin": {}}]}
        if health_check:
            config["healthCheckConfig"] = {"serviceName": ""}
        options: list[tuple[str, Any]] = [
            ("grpc.max_send_message_length", self.max_message_bytes),
            ("grpc.max_receive_message_length", self.max_message_bytes),
            ("grpc.service_config", json.dumps(config)),
            ("grpc.primary_user_agent", f"convserve-python/{__version__}"),
            ("grpc.use_local_subchannel_pool", 1),  # else channels to one address share a connection
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.max_reconnect_backoff_ms", 5000),
            ("grpc.dns_min_time_between_resolutions_ms", 5000),
        ]
        if self.tls is not None and self.tls.server_name:
            options.append(("grpc.ssl_target_name_override", self.tls.server_name))
        return options

    def credentials(self) -> grpc.ChannelCredentials | None:
        """TLS credentials; None for a plain connection."""
        return None if self.tls is None else self.tls.credentials()

    def metadata(self, request_id: str, trace: tracing.Trace) -> list[tuple[str, str]]:
        """What travels beside a request."""
        found = [(REQUEST_ID_KEY, request_id), *trace]
        if self.token is not None:
            found.append(security.authorization(self.token))
        return found


@dataclass(frozen=True, slots=True)
class Terms:
    """What holds for one RPC, however often it is sent."""

    deadline: float
    """Reading of the client's clock after which nobody wants the reply: `time.monotonic`, or the event loop's."""
    request_id: str
    """Id for the server's logs."""
    trace: tracing.Trace = ()
    """The caller's trace context."""
    first_image: int = 0
    """Position of the request's first image among the caller's; errors count from the caller's first one."""
    repeat: bool = True
    """Whether failures may be repeated."""


def tls_of(tls: bool | Tls) -> Tls | None:
    """What the argument `tls` stands for, its files read.

    Raises:
        ConfigError: a file cannot be read.
    """
    return tls.read() if isinstance(tls, Tls) else Tls() if tls else None


def new_request_id() -> str:
    """An id that no other request has."""
    return uuid.uuid4().hex


def check_request_id(request_id: str | None) -> None:
    """Refuse what cannot travel, or would not come out of the server's log as it was.

    Raises:
        InvalidRequestError: it has other characters than printable ASCII, or too many.
    """
    if request_id is not None and not (
        len(request_id) <= _ID_LENGTH and request_id.isascii() and request_id.isprintable()
    ):
        raise InvalidRequestError.of(
            "request_id", f"{request_id[:_ID_LENGTH]!r} came; it is up to {_ID_LENGTH} printable ASCII characters"
        )


def grpc_timeout(seconds: float) -> float | None:
    """The timeout for gRPC, which knows no infinity."""
    return None if seconds > _FOREVER else max(seconds, 0.0)


def check_timeout(timeout: float | None) -> None:
    """Refuse what is no number of seconds.

    Raises:
        InvalidRequestError: it is negative or no number.
    """
    if timeout is not None and (math.isnan(timeout) or timeout < 0):
        raise InvalidRequestError.of("timeout", f"{timeout} came; it is a number of seconds")


def _has_wrong_port(target: str) -> bool:
    """Whether gRPC would take a port for another one: it knows 70000 as 4464, which may be another server's."""
    if target.startswith(("unix:", "unix-abstract:", "vsock:", "xds:")):
        return False
    ports = re.findall(r":(-?[0-9]+)(?:,|$)", target)
    return any(not 0 <= int(port) < 2**16 for port in ports)
