"""`/metrics`, `/livez` and `/readyz`, for Prometheus and for whoever starts and stops containers."""

from __future__ import annotations

import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from prometheus_client import CollectorRegistry, Gauge
from prometheus_client.exposition import choose_encoder

from convserve.errors import ConfigError

_SECONDS_TO_ASK = 10.0
"""How long a connection may take over its request, so that silent ones do not gather."""


class HttpServer:
    """A small HTTP server on threads of its own."""

    def __init__(self, host: str, port: int, registry: CollectorRegistry, is_ready: Callable[[], bool]) -> None:
        """Bind the port; `start` begins to answer.

        Raises:
            ConfigError: the address cannot be bound.
        """
        ready = Gauge("convserve_ready", "1 if traffic should come, as /readyz tells.", registry=registry)
        ready.set_function(is_ready)

        class Handler(BaseHTTPRequestHandler):
            """Answers GET."""

            timeout = _SECONDS_TO_ASK
            server_version, sys_version = "convserve", ""  # no need to tell which Python this is

            def do_GET(self) -> None:  # the base class finds it by this name
                """Route a request."""
                path = self.path.partition("?")[0]
                if path == "/livez":
                    self._answer(200, b"ok\n")
                elif path == "/readyz":
                    ready = is_ready()
                    self._answer(200 if ready else 503, b"ok\n" if ready else b"not ready\n")
                elif path == "/metrics":
                    encode, content_type = choose_encoder(self.headers.get("Accept", ""))
                    self._answer(200, encode(registry), content_type)
                else:
                    self._answer(404, b"not here; try /metrics, /livez or /readyz\n")

            def _answer(self, status: int, body: bytes, content_type: str = "text/plain; charset=utf-8") -> None:
                self.send_response(status)
                self.send_header("Content-Type", content_type)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args: object) -> None:
                """Keep probes out of the log."""

        try:
            self._server = ThreadingHTTPServer((host, port), Handler)
        except OSError as error:
            raise ConfigError(f"http_port: cannot listen on {host}:{port} ({error.strerror})") from error
        self._server.daemon_threads = True
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
