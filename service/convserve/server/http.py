"""`/metrics`, `/livez` and `/readyz`, for Prometheus and for whoever starts and stops containers."""

from __future__ import annotations

import contextlib
import errno
import socket
import sys
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import structlog
from prometheus_client import CollectorRegistry, Gauge
from prometheus_client.exposition import choose_encoder

from convserve.clock import monotonic
from convserve.errors import ConfigError

_SECONDS_TO_ASK = 10.0
"""How long a connection may take over its request, so that silent and slow ones do not gather."""

_NO_ROOM = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_RETRY_SECONDS = 1.0
"""How soon a connection for which there was no file descriptor or memory is tried again; gRPC does so too."""

log = structlog.get_logger(__name__)


class HttpServer:
    """A small HTTP server on threads of its own."""

    def __init__(
        self,
        host: str,
        port: int,
        registry: CollectorRegistry,
        is_ready: Callable[[], bool],
        find_hang: Callable[[], str] = str,
    ) -> None:
        """Bind the port; `start` begins to answer.

        Args:
            host: address to listen on.
            port: its port; 0: any free one.
            registry: what `/metrics` shows.
            is_ready: whether traffic should come.
            find_hang: why the process should be replaced; empty: it should not.

        Raises:
            ConfigError: the address cannot be bound.
        """
        ready = Gauge("convserve_ready", "1 if traffic should come, as /readyz tells.", registry=registry)
        ready.set_function(is_ready)

        class Handler(BaseHTTPRequestHandler):
            """Answers GET and HEAD."""

            timeout = _SECONDS_TO_ASK
            server_version, sys_version = "convserve", ""  # no need to tell which Python this is

            def do_GET(self) -> None:  # the base class finds it by this name
                """Route a request."""
                listener.has_asked(self.connection)
                path = self.path.partition("?")[0]
                if path == "/livez":
                    why = find_hang()
                    self._answer(503 if why else 200, f"{why or 'ok'}\n".encode())
                elif path == "/readyz":
                    ready = is_ready()
                    self._answer(200 if ready else 503, b"ok\n" if ready else b"not ready\n")
                elif path == "/metrics":
                    encode, content_type = _encoder(self.headers.get("Accept", ""))
                    self._answer(200, encode(registry), content_type)
                else:
                    self._answer(404, b"not here; try /metrics, /livez or /readyz\n")

            do_HEAD = do_GET  # noqa: N815  # the same, but for the body

            def _answer(self, status: int, body: bytes, content_type: str = "text/plain; charset=utf-8") -> None:
                self.send_response(status)
                self.send_header("Content-Type", content_type)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

            def log_message(self, *args: object) -> None:
                """Keep probes out of the log."""

        try:
            listener = self._server = _Listener(host, port, Handler)
        except OSError as error:
            raise ConfigError(f"http_port: cannot listen on {host}:{port} ({error.strerror})") from error
        self._thread = threading.Thread(target=self._server.serve_forever, name="http", daemon=True)

    @property
    def port(self) -> int:
        """The port bound."""
        return int(self._server.server_address[1])

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def close(self) -> None:
        """Stop answering and free the port."""
        if self._thread.is_alive():
            self._server.shutdown()
        self._server.server_close()


def _encoder(accept: str) -> tuple[Callable[[CollectorRegistry], bytes], str]:
    """What writes `/metrics` in a form that the caller accepts, and that form's content type."""
    try:
        return choose_encoder(accept)
    except (TypeError, ValueError):  # a version that is no version
        return choose_encoder("")


class _Listener(ThreadingHTTPServer):
    """Takes connections, each on a thread of its own."""

    daemon_threads = True
    request_queue_size = 128  # of connections that wait to be taken; beyond it a probe waits a second to try again

    def __init__(self, host: str, port: int, handler: type[BaseHTTPRequestHandler]) -> None:
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._asking: dict[Any, float] = {}
        super().__init__((host.strip("[]"), port), handler)

    def get_request(self) -> Any:
        """Take the next connection; wait where there is no room for it, for the next look would come at once."""
        try:
            return super().get_request()
        except OSError as error:
            if error.errno in _NO_ROOM:
                log.error("no HTTP connection can be taken", reason=error.strerror)
                time.sleep(_RETRY_SECONDS)
            raise

    def process_request(self, request: Any, client_address: Any) -> None:
        """Start a connection's thread, and the time that it has to ask."""
        self._asking[request] = monotonic() + _SECONDS_TO_ASK
        super().process_request(request, client_address)

    def has_asked(self, request: Any) -> None:
        """Stop that time."""
        self._asking.pop(request, None)

    def shutdown_request(self, request: Any) -> None:
        """End a connection, whether it has asked or not."""
        self.has_asked(request)
        super().shutdown_request(request)

    def service_actions(self) -> None:
        """End connections that take too long; a byte now and then keeps a socket's own timeout from doing it."""
        now = monotonic()
        for request, until in list(self._asking.items()):
            if now > until:
                with contextlib.suppress(OSError):
                    request.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002
        """Log what went wrong as everything else is logged. A caller who hangs up is his own affair."""
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            log.error("HTTP request failed", exc_info=error)
