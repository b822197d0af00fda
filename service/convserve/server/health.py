"""`grpc.health.v1`: is the process alive, may it get traffic, which models answer.

Service names: `""` and `readiness` say whether traffic should come; `liveness` says whether the process should live,
and never changes while it does; each gRPC service and each model has its name.
"""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

SERVICE = health.SERVICE_NAME
FILE = health_pb2.DESCRIPTOR

_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class Health:
    """What health checks are told."""

    def __init__(self, services: Iterable[str]) -> None:
        """Start as alive and not ready; `services` are the gRPC services that come and go with readiness."""
        # Non-blocking, or each Watch would hold a thread of the server for as long as it lasts.
        self._servicer = health.HealthServicer(
            experimental_non_blocking=True,
            experimental_thread_pool=ThreadPoolExecutor(max_workers=1, thread_name_prefix="health"),
        )
        self._with_readiness = ["", "readiness", *services]
        self.ready = False
        """Whether traffic should come."""
        self._servicer.set("liveness", _SERVING)
        self.set_ready(False)

    def register(self, server: grpc.Server) -> None:
        """Add the service to a server."""
        health_pb2_grpc.add_HealthServicer_to_server(self._servicer, server)

    def set_ready(self, ready: bool) -> None:
        """Say whether traffic should come."""
        self.ready = ready
        for name in self._with_readiness:
            self._servicer.set(name, _SERVING if ready else _NOT_SERVING)

    def set_model(self, name: str, available: bool) -> None:
        """Say whether a model answers."""
        self._servicer.set(name, _SERVING if available else _NOT_SERVING)
