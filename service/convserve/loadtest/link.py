"""A socket with HTTP/2 on it."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from convserve.errors import ConfigError
from convserve.loadtest.http2 import Connection, ProtocolError, Reply

_READ_BYTES = 262_144
_CONNECT_SECONDS = 5.0


@dataclass(frozen=True)
class Target:
    """Where to connect, and how."""

    host: str
    port: int
    timeout: float
    """Seconds that a request may take."""
    tls: bool = False
    ca_file: str = ""
    """PEM file of certificates that may have signed the server's; empty: the machine's usual ones."""
    cert_file: str = ""
    """PEM file of this client's certificate chain, for servers that ask for one; empty: none."""
    key_file: str = ""
    """PEM file of its key."""
    token: str = ""
    """Bearer token; empty: none."""

    @property
    def authority(self) -> str:
        """HOST:PORT, IPv6 hosts in brackets."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def metadata(self) -> Sequence[tuple[str, str]]:
        """Headers of every call."""
        return (("authorization", f"Bearer {self.token}"),) if self.token else ()


def parse_target(
    text: str,
    timeout: float,
    *,
    tls: bool = False,
    ca_file: str = "",
    cert_file: str = "",
    key_file: str = "",
    token_file: str = "",
) -> Target:
    """Read HOST:PORT, and find the files.

    Raises:
        ConfigError: says what came and what is wanted; also where a token would travel unencrypted to another machine.
    """
    from convserve.client.security import is_local  # not for the processes that make the load: it brings gRPC

    if bool(cert_file) != bool(key_file):
        raise ConfigError("tls: a certificate needs its key, and a key its certificate")
    host, separator, port = text.removeprefix("dns:///").rpartition(":")
    if not separator or not host or not (port.isascii() and port.isdecimal() and len(port) <= 5 and int(port) < 2**16):
        raise ConfigError(f"target: {text!r} came; wanted is HOST:PORT")  # gRPC would take 70000 for 4464
    try:
        token = Path(token_file).read_text(encoding="utf-8").strip() if token_file else ""
        ca, cert, key = (_readable(name) for name in (ca_file, cert_file, key_file))
    except OSError as error:
        raise ConfigError(f"{error.filename} cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{token_file} holds no token: it is no text") from error
    if not (token.isascii() and token.isprintable()):
        raise ConfigError(f"{token_file} holds no token: it has characters that no header carries")
    tls = tls or bool(ca or cert)
    if token and not tls and not is_local(f"{host}:{port}"):
        raise ConfigError(f"token: would travel to {host}:{port} unencrypted; set --tls or --tls-ca")
    return Target(host.strip("[]"), int(port), timeout, tls, ca, cert, key, token)


def _readable(name: str) -> str:
    """The whole path of a file that can be read; empty for none."""
    if not name:
        return ""
    Path(name).read_bytes()
    return str(Path(name).resolve())


class Link:
    """One connection to the server. Reading and writing never wait; connecting does, at most some seconds."""

    def __init__(self, target: Target, path: str) -> None:
        """Connect.

        Raises:
            OSError: nobody answers there.
        """
        raw = socket.create_connection((target.host, target.port), _CONNECT_SECONDS)
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if target.tls:
            context = ssl.create_default_context(cafile=target.ca_file or None)
            context.set_alpn_protocols(["h2"])
            if target.cert_file:
                context.load_cert_chain(target.cert_file, target.key_file)
            raw = context.wrap_socket(raw, server_hostname=target.host)
        raw.setblocking(False)
        self._socket = raw
        scheme = "https" if target.tls else "http"
        self._connection = Connection(target.authority, path, target.timeout, target.metadata, scheme=scheme)

    def fileno(self) -> int:
        """For `select`."""
        return self._socket.fileno()

    @property
    def ready(self) -> bool:
        """Whether a call may be sent now."""
        return self._connection.ready

    @property
    def closing(self) -> bool:
        """Whether no call may be sent ever again: time for another connection."""
        return self._connection.closing

    @property
    def spent(self) -> bool:
        """Whether no call is under way and none may be sent: time to close."""
        return self._connection.closing and not self._connection.in_flight

    @property
    def unsent(self) -> bool:
        """Whether bytes wait for room in the socket."""
        return bool(self._connection.output)

    def send(self, framed: bytes) -> int:
        """Begin a call; its bytes leave with the next `flush`. Returns its stream."""
        return self._connection.send(framed)

    def cancel(self, stream: int) -> None:
        """Give a call up."""
        self._connection.cancel(stream)

    def flush(self) -> list[Reply]:
        """Send what the socket takes. Returns the calls that failed because the connection is lost."""
        output = self._connection.output
        try:
            while output:
                del output[: self._socket.send(output)]
        except (BlockingIOError, ssl.SSLWantWriteError, ssl.SSLWantReadError):
            pass
        except OSError as error:
            return self._lose(str(error.strerror))
        return []

    def receive(self) -> list[Reply]:
        """Read what has come. Returns the calls that ended with it."""
        replies: list[Reply] = []
        try:
            while True:
                data = self._socket.recv(_READ_BYTES)
                if not data:
                    return replies + self._lose("the server closed the connection")
                replies += self._connection.receive(data)
                if len(data) < _READ_BYTES and not self._pending():
                    return replies
        except (BlockingIOError, ssl.SSLWantReadError):
            return replies
        except OSError as error:
            return replies + self._lose(str(error.strerror))
        except ProtocolError as error:
            return replies + self._lose(str(error))

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def _pending(self) -> bool:
        return isinstance(self._socket, ssl.SSLSocket) and self._socket.pending() > 0

    def _lose(self, why: str) -> list[Reply]:
        self._connection.output.clear()
        return self._connection.fail(f"connection lost: {why}")


Connect = Callable[[], Link]
