"""One server process, from start to end."""

from __future__ import annotations

import math
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import grpc
import structlog
from prometheus_client import CollectorRegistry
from prometheus_client.gc_collector import GCCollector
from prometheus_client.process_collector import ProcessCollector

import convserve
from convserve import host, memory, repository
from convserve.clock import monotonic
from convserve.config import LOOPBACK, Settings, TlsSettings
from convserve.engine import Engine
from convserve.errors import ArtifactError, ConfigError
from convserve.host import CpuPlan
from convserve.lifecycle import VersionState
from convserve.manager import Manager
from convserve.metrics import Metrics
from convserve.open_inference.v2 import service_pb2
from convserve.registry import Registry
from convserve.server import (
    classification,
    lane,
    models,
    open_inference,
    reflection,
    shared_totals,
    tensorflow_serving,
)
from convserve.server.access import Access, Group
from convserve.server.access_log import AccessLog
from convserve.server.gate import interceptors
from convserve.server.health import FILE as HEALTH_FILE
from convserve.server.health import SERVICE as HEALTH_SERVICE
from convserve.server.health import Health
from convserve.server.http import HttpServer
from convserve.server.lane import FastLane
from convserve.server.listener import bind, options
from convserve.server.rpc import Guard
from convserve.server.shared_totals import ReadTotals
from convserve.statistics import Totals
from convserve.tensorflow_serving.v1 import model_pb2 as tensorflow_model_pb2
from convserve.tensorflow_serving.v1 import prediction_pb2
from convserve.v1 import classification_pb2, model_pb2

_IDLE_SECONDS = 1.0
_QUIET_SECONDS = 0.1
_AT_MOST_REFUSING_SECONDS = 2.0
_ADMIN_THREADS = 4

_FILES = {
    classification.SERVICE: classification_pb2.DESCRIPTOR,
    models.SERVICE: model_pb2.DESCRIPTOR,
    open_inference.SERVICE: service_pb2.DESCRIPTOR,
    tensorflow_serving.PREDICTION_SERVICE: prediction_pb2.DESCRIPTOR,
    tensorflow_serving.MODEL_SERVICE: tensorflow_model_pb2.DESCRIPTOR,
}
"""The services that come and go with readiness, and where they are defined."""

if TYPE_CHECKING:
    from convserve.server.tls import Certificates

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Place:
    """Where a server stands among several that share a port."""

    port: int
    """The port they share. Somebody else answers HTTP for all of them."""
    admin_port: int
    """The port for admin methods that they share, where there is one."""
    admin: models.Admin
    """Carries admin methods out in all of them."""
    read_totals: ReadTotals
    """Adds up where the time of requests went in all of them."""
    late: bool
    """Whether to open the ports only when every model is proved, since others answer there meanwhile."""


class Server:
    """Serves a model repository over gRPC. `start`, then `stop`; both once."""

    def __init__(self, settings: Settings, plan: CpuPlan, place: Place | None = None) -> None:
        """Put the parts together; nothing is bound, loaded or started yet.

        Args:
            settings: all settings.
            plan: how the cores are shared out.
            place: None for a server that stands alone.
        """
        self._settings = settings
        self._place = place
        self._metrics = Metrics(CollectorRegistry(), convserve.__version__)
        ProcessCollector(registry=self._metrics.registry)
        GCCollector(registry=self._metrics.registry)
        self._metrics.show_plan(plan)
        self._registry = Registry()
        self._metrics.observe_registry(self._registry)
        self._access = Access(settings.auth)
        self._certificates = _certificates(settings.tls)
        self._guard = Guard(
            self._metrics, self._access, AccessLog(settings.access_log_share), settings.limits.max_concurrent_requests
        )
        self._health = Health(list(_FILES), self.find_hang if place is None else str)  # workers have a supervisor
        self.manager = Manager(settings, self._registry, self._metrics, plan.intra_op_threads)
        """Carries out admin methods in this process."""
        self._grpc: list[grpc.Server] = []
        self._lane: FastLane | None = None
        self._http: HttpServer | None = None
        self.grpc_port = 0
        """The gRPC port bound."""
        self.admin_port = 0
        """The port for admin methods; 0: there is none."""
        self.metrics_registry = self._metrics.registry
        """What `/metrics` shows of this process."""

    @property
    def http_port(self) -> int:
        """The HTTP port bound."""
        return self._http.port if self._http else 0

    def start(self) -> list[str]:
        """Bind, load and prove, then say SERVING. Returns the names of the models that answer.

        The ports are open from the beginning, so that probes can tell loading from dead; calls get UNAVAILABLE until
        their model is ready. A late one among several must not draw calls before it can answer them.

        Raises:
            ConfigError: an address cannot be bound, tokens or certificates cannot be read, or the repository is missing
                or empty.
            ArtifactError: a model cannot be proved, and `exit_on_error` is set; under `latest`, none of its versions.
        """
        settings = self._settings
        self._access.load()
        self._tell_access()
        if settings.traces != "off":
            from convserve.server.tracing import open_tracing

            self._guard.tracing = open_tracing(settings.traces)
        if self._place is None:
            self._http = HttpServer(
                settings.host, settings.http_port, self.metrics_registry, lambda: self._health.ready, self.find_hang
            )
            self._http.start()
        late = self._place is not None and self._place.late
        if not late:
            self._open_ports()
        failures = self.manager.reconcile()
        if failures and settings.exit_on_error:
            raise ArtifactError("; ".join(failure.reason for failure in failures))
        available = [model for model in self._registry.models() if self._registry.default_version(model)]
        if not available:
            why = "it needs folders NAME/VERSION/ with a manifest.json, as `convtrain publish` writes them"
            if any(repository.scan(settings.model_repository).values()):
                why = "no version in it is both wanted, by version_policy, and proved; `convserve doctor` lists them"
            raise ConfigError(f"model_repository: {settings.model_repository} holds no model that can be served; {why}")
        memory.settle()
        self.manager.on_change = self._show_models
        self._show_models()
        if late:
            self._open_ports()
        self._health.set_ready(True)
        self.manager.start_watching()
        return available

    def stop(self) -> None:
        """Go away without losing an accepted request, in this order.

        1. Say NOT_SERVING, so that load balancers look elsewhere, and give them `drain.delay` to notice.
        2. Refuse new calls until callers have noticed, then close the port; calls under way get `drain.timeout`.
        3. Stop the batchers and unload the models; send the last spans.
        4. Stop answering HTTP last, so that the end can be watched.
        """
        self._health.set_ready(False)
        if self._health_was_ready():
            time.sleep(self._settings.drain.delay)
        cut = 0
        self._health.close()
        if self._grpc:
            self._guard.drain(_QUIET_SECONDS, _AT_MOST_REFUSING_SECONDS)
            under_way = self._guard.active
            self._close_ports()
            cut = self._guard.active
            log.info("drained", requests_under_way=under_way, requests_cut=cut)
        self.manager.close()
        if self._lane is not None:
            self._lane.close()
        if self._guard.tracing is not None:
            self._guard.tracing.close()
        if self._http is not None:
            self._http.close()

    def find_hang(self) -> str:
        """Why this process should be replaced: a batch that does not end. Empty: it should not.

        A runtime or a driver that does not come back cannot be ended from within the process.
        """
        limit = self._settings.worker_timeout
        label, seconds = self._registry.longest_run()
        if not 0 < limit < seconds:
            return ""
        why = f"{label} has been running one batch for {seconds:.0f} s"
        log.error("a batch does not end", reason=why)
        return why

    def longest_run(self) -> tuple[str, float]:
        """The version that has been running one batch for longest, and for how many seconds."""
        return self._registry.longest_run()

    def _open_ports(self) -> None:
        self._grpc = self._build_grpc()
        for server in self._grpc:
            server.start()
        if self._lane is not None:
            self._lane.start()

    def _tell_access(self) -> None:
        """Say in the log who may call, loudly if tokens would travel in the open."""
        tls = self._settings.tls
        encryption = "mTLS" if tls.client_ca_file else "TLS" if tls.cert_file else "none"
        groups = {group.value: "tokens" if self._access.needs_token(group) else "open" for group in Group}
        log.info("access", encryption=encryption, **groups, admin_methods=self._settings.admin_methods)
        if encryption == "none" and not self._access.open and self._settings.host not in LOOPBACK:
            log.warning("tokens travel unencrypted, unless something else encrypts the way; see tls.cert_file")

    def _close_ports(self) -> None:
        """Stop the gRPC servers; calls under way get `drain.timeout`.

        Once no call of ours is under way, what keeps a connection open are streams that nobody answers any more, such
        as a health watch that came in the moment of the shutdown: gRPC waits for those as for any call; they are cut.
        """
        give_up = monotonic() + self._settings.drain.timeout
        stopped = [server.stop(self._settings.drain.timeout) for server in self._grpc]
        last_active = monotonic()
        while not all(event.wait(_QUIET_SECONDS / 10) for event in stopped) and monotonic() < give_up:
            if self._guard.active:
                last_active = monotonic()
            elif monotonic() > last_active + _IDLE_SECONDS:
                for server in self._grpc:
                    server.stop(0)
                last_active = math.inf

    def share_of_totals(self) -> bytes:
        """Where the time of this process's requests went."""
        return shared_totals.share(self._registry)

    def _read_totals(self) -> dict[shared_totals.Key, Totals]:
        return shared_totals.local(self._registry) if self._place is None else self._place.read_totals()

    def _show_models(self) -> None:
        """Let health checks tell which models answer."""
        for model in self._registry.models():
            self._health.set_model(model, bool(self._registry.default_version(model)))

    def _health_was_ready(self) -> bool:
        return any(
            state.state is VersionState.AVAILABLE for v in self._registry.models().values() for state in v.values()
        )

    def _build_grpc(self) -> list[grpc.Server]:
        """The servers of the public port and, where it is wanted, of the one for admin methods; both bound."""
        settings, place = self._settings, self._place
        engine = Engine(
            self._registry, max_image_pixels=settings.limits.max_image_pixels, decoders=host.inspect().cores + 1
        )
        admin = self.manager if place is None else place.admin
        public = self._build_one(
            engine,
            admin if settings.admin_methods else None,
            settings.limits.max_concurrent_requests,
            fast=settings.fast_lane,
        )
        self.grpc_port = bind(public, "port", settings.host, place.port if place else settings.port, self._certificates)
        if settings.admin_port == "off":
            return [public]
        private = self._build_one(engine, admin, _ADMIN_THREADS)
        port = place.admin_port if place else settings.admin_port
        self.admin_port = bind(private, "admin_port", settings.admin_host, port, self._certificates)
        return [public, private]

    def _build_one(
        self, engine: Engine, admin: models.Admin | None, threads: int, *, fast: bool = False
    ) -> grpc.Server:
        """A server with all methods; `admin` carries admin methods out, None refuses them."""
        pool = ThreadPoolExecutor(threads, thread_name_prefix="grpc")
        server = grpc.server(
            pool,
            interceptors=interceptors(self._access),
            options=options(self._settings.limits, shared=self._place is not None),
        )
        native = classification.ClassificationServicer(engine, self._registry)
        open_ = open_inference.OpenInferenceServicer(
            engine, self._registry, admin, lambda: self._health.ready, self._read_totals
        )
        tensorflow = tensorflow_serving.PredictionServicer(engine, self._registry)
        server.add_generic_rpc_handlers(
            (
                native.handler(self._guard),
                models.ModelServicer(self._registry, admin).handler(self._guard),
                open_.handler(self._guard),
                tensorflow.handler(self._guard),
                tensorflow_serving.ModelStatusServicer(self._registry).handler(self._guard),
            )
        )
        if fast:
            hot = [*native.hot(), *open_.hot(), *tensorflow.hot()]
            # Of its own: streams, and calls whose message never comes, hold the others as long as they like.
            files = ThreadPoolExecutor(threads, thread_name_prefix="files")
            self._lane = lane.build(server, hot, self._guard, files)
        self._health.register(server)
        reflection.register(server, (*_FILES, HEALTH_SERVICE), (*_FILES.values(), HEALTH_FILE))
        return server


def _certificates(settings: TlsSettings) -> Certificates | None:
    """The certificates, where there are any: only those who encrypt pay for the library."""
    if not settings.cert_file:
        return None
    from convserve.server.tls import Certificates

    return Certificates(settings)
