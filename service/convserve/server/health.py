"""`grpc.health.v1`: is the process alive, may it get traffic, which models answer.

Service names: `""` and `readiness` say whether traffic should come; `liveness` says whether the process should live,
which is found out when somebody asks; each gRPC service and each model has its name. A model that is called as one of
the others has none: a probe must not be told of a model what it asks of the process.

The servicer is our own. grpcio-health-checking's holds its lock while it sends to a watcher, and takes the same lock on
the server's thread when a watcher leaves: a watcher that leaves while a status changes stops both threads for good.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

import grpc
import structlog
from grpc_health.v1 import health_pb2, health_pb2_grpc

from convserve.clock import monotonic

SERVICE = "grpc.health.v1.Health"
FILE = health_pb2.DESCRIPTOR

log = structlog.get_logger(__name__)

_LIVENESS = "liveness"
_Send = Callable[[health_pb2.HealthCheckResponse | None], None]
_SENDERS = 8
"""Threads that send to watchers; one that does not read holds one of them, until nobody has patience any more."""
_PATIENCE_SECONDS = 2.0
"""How long a watcher may take to receive a few bytes. Then its connection's watches end, or a handful of callers who
never read would keep everybody else from learning anything."""
_NAME_LENGTH = 100
"""Characters of an unknown name that an error quotes; a status that is too large does not arrive."""


class Health:
    """What health checks are told. Thread-safe; nothing here waits for a watcher."""

    def __init__(self, services: Iterable[str], find_hang: Callable[[], str] = str) -> None:
        """Start as alive and not ready.

        Args:
            services: the gRPC services that come and go with readiness.
            find_hang: why the process should be replaced; empty: it should not.
        """
        self._with_readiness = ["", "readiness", *services]
        self._models: dict[str, bool] = {}
        self._nameless: set[str] = set()
        self._lock = threading.Lock()
        self._servicer = _Servicer(find_hang)
        self.ready = False
        """Whether traffic should come."""
        self._servicer.set(_LIVENESS, serving=True)
        self.set_ready(False)

    def register(self, server: grpc.Server) -> None:
        """Add the service to a server."""
        health_pb2_grpc.add_HealthServicer_to_server(self._servicer, server)

    def set_ready(self, ready: bool) -> None:
        """Say whether traffic should come, for any model."""
        with self._lock:
            self.ready = ready
            for name in self._with_readiness:
                self._servicer.set(name, serving=ready)
            for name, available in self._models.items():
                self._servicer.set(name, serving=ready and available)

    def set_model(self, name: str, available: bool) -> None:
        """Say whether a model answers; while no traffic should come, none does.

        One that is called as something else here gets no status; the log says so once.
        """
        with self._lock:
            if name == _LIVENESS or name in self._with_readiness:
                if name not in self._nameless:
                    self._nameless.add(name)
                    log.warning("a model has no health status: the server's own has its name", model=name)
                return
            self._models[name] = available
            self._servicer.set(name, serving=self.ready and available)

    def close(self) -> None:
        """End every watch, after its last status: a server waits for open calls before it stops."""
        self._servicer.close()


class _Watcher:
    """One Watch call: what it still has to be sent, and whether somebody is sending."""

    def __init__(self, send: _Send, peer: str, cancel: Callable[[], object]) -> None:
        self.send = send
        self.peer = peer
        self.cancel = cancel
        self.waiting: list[health_pb2.HealthCheckResponse | None] = []
        self.sending = False


class _Servicer(health_pb2_grpc.HealthServicer):  # type: ignore[misc]  # it has no types
    """Answers Check and Watch. The lock is never held while something is sent."""

    def __init__(self, find_hang: Callable[[], str]) -> None:
        self._find_hang = find_hang
        self._lock = threading.Lock()
        self._statuses: dict[str, int] = {}
        self._watchers: dict[str, set[_Watcher]] = {}
        self._closed = False
        self._senders = ThreadPoolExecutor(_SENDERS, thread_name_prefix="health")
        self._sending: dict[_Watcher, float] = {}
        self._timer: threading.Timer | None = None

    def set(self, name: str, *, serving: bool) -> None:
        """Change a status and tell its watchers."""
        status = health_pb2.HealthCheckResponse.SERVING if serving else health_pb2.HealthCheckResponse.NOT_SERVING
        with self._lock:
            if self._statuses.get(name) == status:
                return
            self._statuses[name] = status
            for watcher in self._watchers.get(name, ()):
                self._tell(watcher, health_pb2.HealthCheckResponse(status=status))

    def close(self) -> None:
        """End every watch, and those that come later after their first status."""
        with self._lock:
            self._closed = True
            for watchers in self._watchers.values():
                for watcher in watchers:
                    self._tell(watcher, None)

    def Check(  # noqa: N802  # the name of the method
        self, request: health_pb2.HealthCheckRequest, context: grpc.ServicerContext
    ) -> health_pb2.HealthCheckResponse:
        """Tell a status once."""
        if request.service == _LIVENESS:
            self.set(_LIVENESS, serving=not self._find_hang())
        with self._lock:
            status = self._statuses.get(request.service)
        if status is None:
            name = request.service if len(request.service) <= _NAME_LENGTH else f"{request.service[:_NAME_LENGTH]}…"
            context.abort(grpc.StatusCode.NOT_FOUND, f"no service or model is called {name!r}")
        return health_pb2.HealthCheckResponse(status=status)

    def Watch(  # noqa: N802  # the name of the method
        self, request: health_pb2.HealthCheckRequest, context: grpc.ServicerContext, send_response_callback: _Send
    ) -> None:
        """Tell a status now and whenever it changes. Holds no thread of the server while nothing changes."""
        watcher = _Watcher(send_response_callback, context.peer(), context.cancel)
        unknown = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
        with self._lock:
            self._watchers.setdefault(request.service, set()).add(watcher)
            status = self._statuses.get(request.service, unknown)
            self._tell(watcher, health_pb2.HealthCheckResponse(status=status))
            if self._closed:
                self._tell(watcher, None)

        def forget() -> None:
            with self._lock:
                watchers = self._watchers.get(request.service, set())
                watchers.discard(watcher)
                if not watchers:  # whoever watches chooses the name: none may stay for ever
                    self._watchers.pop(request.service, None)

        if not context.add_callback(forget):
            forget()

    # How grpcio is told that Watch returns at once and sends through a callback.
    Watch.experimental_non_blocking = True  # type: ignore[attr-defined]
    Watch.experimental_thread_pool = None  # type: ignore[attr-defined]

    def _tell(self, watcher: _Watcher, response: health_pb2.HealthCheckResponse | None) -> None:
        """Have something sent, after what waits already. Called with the lock held."""
        watcher.waiting.append(response)
        if not watcher.sending:
            watcher.sending = True
            self._senders.submit(self._send_all, watcher)

    def _send_all(self, watcher: _Watcher) -> None:
        while True:
            with self._lock:
                if not watcher.waiting:
                    watcher.sending = False
                    return
                response = watcher.waiting.pop(0)
                self._sending[watcher] = monotonic()
                self._look_again()
            try:
                watcher.send(response)
            finally:
                with self._lock:
                    del self._sending[watcher]

    def _look_again(self) -> None:
        """Have somebody look, after a while, whether what is being sent arrives. Called with the lock held."""
        if self._timer is None and self._sending:
            self._timer = threading.Timer(_PATIENCE_SECONDS, self._end_deaf)
            self._timer.daemon = True
            self._timer.start()

    def _end_deaf(self) -> None:
        """End the watches of connections that do not read."""
        with self._lock:
            long_ago = monotonic() - _PATIENCE_SECONDS
            deaf = {watcher.peer for watcher, since in self._sending.items() if since <= long_ago}
            ended = [one for watchers in self._watchers.values() for one in watchers if one.peer in deaf]
            self._timer = None
            self._look_again()
        for watcher in ended:
            watcher.cancel()
