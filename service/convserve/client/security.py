"""Encryption and credentials."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import grpc

from convserve.errors import ConfigError

PemLike: TypeAlias = str | os.PathLike[str] | bytes
"""PEM data: the path of a file, or the bytes themselves."""

Token: TypeAlias = str | Callable[[], str]
"""A bearer token, or a function that gives the current one; it is called before every attempt of an RPC."""

_LOCAL = re.compile(
    r"^(dns:/*|ipv4:|ipv6:)?(localhost|127\.\d+\.\d+\.\d+|\[?::1\]?|\[::1\])(:\d+)?$|^unix(-abstract)?:"
)


@dataclass(frozen=True)
class Tls:
    """How to talk over TLS. Without any field: verify the server with the machine's usual roots."""

    ca: PemLike | None = None
    """Certificates that may have signed the server's. None: gRPC's own roots."""
    cert: PemLike | None = None
    """This client's certificate chain, for servers that ask for one (mTLS). Needs `key`."""
    key: PemLike | None = None
    """Private key of `cert`."""
    server_name: str = ""
    """Name that the server's certificate must have. Empty: the host in the target."""

    def __post_init__(self) -> None:
        """Check that certificate and key come together."""
        if (self.cert is None) != (self.key is None):
            missing, given = ("key", "cert") if self.key is None else ("cert", "key")
            raise ConfigError(f"tls.{missing} is missing; tls.{given} is useless without it")

    def read(self) -> Tls:
        """The same with the files' contents.

        Raises:
            ConfigError: a file cannot be read; names the field and the file.
        """
        return Tls(_read("ca", self.ca), _read("cert", self.cert), _read("key", self.key), self.server_name)

    def credentials(self) -> grpc.ChannelCredentials:
        """What gRPC wants."""
        return grpc.ssl_channel_credentials(_read("ca", self.ca), _read("key", self.key), _read("cert", self.cert))


def _read(name: str, pem: PemLike | None) -> bytes | None:
    if pem is None:
        return None
    content = pem if isinstance(pem, bytes) else _read_file(name, Path(pem))
    if b"-----BEGIN" not in content:
        raise ConfigError(f"tls.{name}: holds no PEM data; give a file's path, or its content as bytes")
    return content


def _read_file(name: str, path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"tls.{name}: {path} cannot be read ({error.strerror})") from error


def is_local(target: str) -> bool:
    """Whether a target is on this machine, so that nobody can listen on the way."""
    return _LOCAL.match(target) is not None


def authorization(token: Token) -> tuple[str, str]:
    """The metadata that carries a token.

    Raises:
        ConfigError: gRPC could not send it; the message does not show it.
    """
    value = token if isinstance(token, str) else token()
    if not (value.isascii() and value.isprintable()):
        raise ConfigError("token: has characters that no header carries, such as a line break at its end; strip it")
    return "authorization", f"Bearer {value}"
