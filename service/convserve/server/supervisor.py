"""Several workers behind one port: starts them, watches them, and speaks HTTP for all of them.

Imports no gRPC: workers are new processes, and share the port by SO_REUSEPORT. Each HTTP/2 connection stays with one
worker, so a client that wants all of them opens several.
"""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from typing import Any

import structlog
from prometheus_client import CollectorRegistry, Gauge

from convserve import errors
from convserve.config import Settings
from convserve.errors import ConfigError, ConvserveError, InternalError
from convserve.host import CpuPlan
from convserve.server.aggregate import AggregateCollector, Family, keep_growing, merge
from convserve.server.http import HttpServer
from convserve.tallies import Counts

log = structlog.get_logger(__name__)

_CRASHES, _CRASH_WINDOW_SECONDS = 5, 60.0
"""So many deaths of workers within so much time are a crash loop: the supervisor gives up, and says so."""
_BACKOFF_SECONDS, _LONGEST_BACKOFF_SECONDS = 0.1, 5.0
_ANSWER_SECONDS = 10.0
"""How long a worker may take to tell its metrics."""


class _Worker:
    """A process and the pipes to it."""

    def __init__(self, index: int, settings: Settings, plan: CpuPlan, port: int, admin_port: int) -> None:
        self.index = index
        self.ready = False
        self.last_metrics: list[Family] = []
        self._turn = threading.Lock()
        self._asked = 0
        self.commands, commands_there = Pipe()
        self.requests, requests_there = Pipe()
        fds = (commands_there.fileno(), requests_there.fileno())
        self.process = subprocess.Popen(  # noqa: S603  # our own interpreter and module
            [sys.executable, "-m", "convserve.server.worker", *map(str, fds)], pass_fds=fds, stdin=subprocess.DEVNULL
        )
        commands_there.close()
        requests_there.close()
        with contextlib.suppress(OSError):  # it may be dead already; whoever waits for it will notice
            self.commands.send((index, settings, plan, port, admin_port))

    def ask(self, *command: Any, timeout: float | None = None) -> Any:
        """Have a command carried out.

        Raises:
            ConvserveError: the worker could not do it.
            OSError, EOFError: the worker is gone, or did not answer in time.
        """
        with self._turn:
            self._asked += 1
            self.commands.send((self._asked, command))
            number = 0
            while number != self._asked:  # an answer to an earlier question may come late
                if timeout is not None and not self.commands.poll(timeout):
                    raise TimeoutError(f"worker {self.index} did not answer within {timeout} s")
                number, kind, value = self.commands.recv()
        if kind != "ok":
            raise errors.by_name(kind, value)
        return value

    def metrics(self) -> list[Family]:
        """What the worker counted; what it last told when it does not answer."""
        with contextlib.suppress(OSError, EOFError):
            if self.ready:
                self.last_metrics = self.ask("metrics", timeout=_ANSWER_SECONDS)
        return self.last_metrics

    def tell_to_stop(self) -> None:
        """Have the worker drain and end."""
        with contextlib.suppress(OSError), self._turn:
            self.commands.send((0, ("stop",)))

    def close(self) -> None:
        """Free the pipes of a worker that has ended."""
        self.commands.close()
        self.requests.close()


class Supervisor:
    """Runs `plan.workers` workers. `start`, then `stop`; both once."""

    def __init__(self, settings: Settings, plan: CpuPlan) -> None:
        """Put the parts together; nothing is bound or started yet."""
        self._settings = settings
        self._plan = plan
        self._lock = threading.Lock()
        self._workers: dict[int, _Worker] = {}
        self._retired: list[Family] = []
        self._admin_log: list[tuple[Any, ...]] = []
        self._deaths: list[float] = []
        self._stopping = threading.Event()
        self.failed = threading.Event()
        """Set when the supervisor has given up."""
        registry = CollectorRegistry()
        registry.register(AggregateCollector(self._snapshots))
        restarts = Counts("convserve_worker_restarts", "Workers that died and were replaced.", (), registry)
        self._restarts = restarts.labels()
        Gauge("convserve_workers", "Workers that answer.", registry=registry).set_function(self._count_ready)
        self._registry = registry
        self._port_holder: socket.socket | None = None
        self._admin_port_holder: socket.socket | None = None
        self._http: HttpServer | None = None
        self._watcher = threading.Thread(target=self._watch, name="supervisor", daemon=True)

    @property
    def grpc_port(self) -> int:
        """The gRPC port that the workers share."""
        return _port_of(self._port_holder)

    @property
    def admin_port(self) -> int:
        """The port for admin methods that the workers share; 0: there is none."""
        return _port_of(self._admin_port_holder)

    @property
    def http_port(self) -> int:
        """The HTTP port bound."""
        return self._http.port if self._http else 0

    def start(self) -> list[str]:
        """Start the workers and wait until all are ready. Returns the names of the models that answer.

        Raises:
            ConvserveError: an address cannot be bound, or a worker could not start; says why.
        """
        settings = self._settings
        self._port_holder = _hold_port("port", settings.host, settings.port)
        if settings.admin_port != "off":
            self._admin_port_holder = _hold_port("admin_port", settings.admin_host, settings.admin_port)
        self._http = HttpServer(settings.host, settings.http_port, self._registry, self.is_ready)
        self._http.start()
        for index in range(self._plan.workers):
            self._workers[index] = self._spawn(index)
        models: list[str] = []
        for worker in self._workers.values():
            models = _await_ready(worker)
        self._watcher.start()
        return models

    def is_ready(self) -> bool:
        """Whether every worker is."""
        return not self._stopping.is_set() and self._count_ready() == self._plan.workers

    def stop(self) -> None:
        """Have all workers drain at the same time, and wait for them; what does not end in time is killed."""
        self._stopping.set()
        if self._watcher.is_alive():
            self._watcher.join()
        workers = list(self._workers.values())
        for worker in workers:
            worker.tell_to_stop()
        give_up = time.monotonic() + self._settings.drain.delay + self._settings.drain.timeout + 10
        for worker in workers:
            try:
                worker.process.wait(max(give_up - time.monotonic(), 0.1))
            except subprocess.TimeoutExpired:
                log.error("worker did not drain in time; killed", worker=worker.index)
                worker.process.kill()
                worker.process.wait()
            worker.close()
        if self._http is not None:
            self._http.close()
        for holder in (self._port_holder, self._admin_port_holder):
            if holder is not None:
                holder.close()

    def _spawn(self, index: int) -> _Worker:
        return _Worker(index, self._settings, self._plan, self.grpc_port, self.admin_port)

    def _count_ready(self) -> int:
        return sum(worker.ready for worker in list(self._workers.values()))

    def _snapshots(self) -> list[list[Family]]:
        with self._lock:
            workers = list(self._workers.values())
            retired = self._retired
        return [retired, *(worker.metrics() for worker in workers)]

    def _watch(self) -> None:
        """Answer the workers' requests and replace those that die, until the end."""
        while not self._stopping.is_set():
            with self._lock:
                by_pipe: dict[Connection, _Worker] = {one.requests: one for one in self._workers.values()}
            for pipe in wait(list(by_pipe), timeout=0.2):
                worker = by_pipe[pipe]  # type: ignore[index]
                try:
                    request = worker.requests.recv()
                except (EOFError, OSError):
                    self._replace(worker)
                    continue
                # On a thread: an admin method may take seconds, and a worker may die meanwhile.
                threading.Thread(target=self._answer, args=(worker, request), daemon=True).start()

    def _answer(self, asking: _Worker, request: tuple[Any, ...]) -> None:
        """Ask every worker for its totals, or to carry an admin method out, and answer the one that asked."""
        try:
            outcome = ("ok", self._shares_of_totals() if request == ("totals",) else self._administer(request))
        except ConvserveError as error:
            outcome = (type(error).__name__, str(error))
        except (OSError, EOFError):
            outcome = ("UnavailableError", "a worker ended while this was carried out; try again")
        with contextlib.suppress(OSError):
            asking.requests.send(outcome)

    def _shares_of_totals(self) -> list[bytes]:
        """What each worker tells; one that ends meanwhile takes its share along."""
        shares = []
        for worker in list(self._workers.values()):
            with contextlib.suppress(OSError, EOFError):
                if worker.ready:
                    shares.append(worker.ask("totals", timeout=_ANSWER_SECONDS))
        return shares

    def _administer(self, request: tuple[Any, ...]) -> Any:
        """Carry an admin method out in every worker. Returns the answer for the caller."""
        answers = [worker.ask(*request) for worker in list(self._workers.values()) if worker.ready]
        self._admin_log.append(request)
        if request[0] == "unload":
            return answers[0][0], sum(refused for _, refused in answers)
        return answers[0]

    def _replace(self, dead: _Worker) -> None:
        """Start a worker in the place of one that died; give up when that happens too often."""
        status = dead.process.wait()
        dead.ready = False
        log.error("worker died", worker=dead.index, status=status)
        with self._lock:
            self._retired = keep_growing(merge([self._retired, dead.last_metrics]))
            dead.last_metrics = []
        dead.close()
        now = time.monotonic()
        self._deaths = [death for death in self._deaths if now - death < _CRASH_WINDOW_SECONDS] + [now]
        if len(self._deaths) >= _CRASHES:
            log.error("workers die in a loop; giving up", deaths=len(self._deaths), seconds=_CRASH_WINDOW_SECONDS)
            self.failed.set()
            self._stopping.set()
            return
        if self._stopping.wait(min(_BACKOFF_SECONDS * 2 ** (len(self._deaths) - 1), _LONGEST_BACKOFF_SECONDS)):
            return
        worker = self._spawn(dead.index)
        with self._lock:
            self._workers[dead.index] = worker
        self._restarts.inc()
        threading.Thread(target=self._bring_up, args=(worker,), daemon=True).start()

    def _bring_up(self, worker: _Worker) -> None:
        """Wait for a replacement, and repeat the admin methods that its predecessor had seen."""
        try:
            _await_ready(worker)
            for request in list(self._admin_log):
                with contextlib.suppress(ConvserveError):
                    worker.ask(*request)
        except (ConvserveError, OSError, EOFError) as error:
            log.error("replacement could not start", worker=worker.index, reason=str(error))


def _await_ready(worker: _Worker) -> list[str]:
    """Wait for a worker's first message. Returns the models it serves.

    Raises:
        ConvserveError: it could not start.
    """
    try:
        kind, value = worker.commands.recv()
    except (EOFError, OSError) as error:
        raise InternalError(f"worker {worker.index} ended before it was ready; see its log") from error
    if kind != "ready":
        raise ConfigError(value)
    worker.ready = True
    return list(value)


def _port_of(holder: socket.socket | None) -> int:
    return int(holder.getsockname()[1]) if holder else 0


def _hold_port(setting: str, host: str, port: int) -> socket.socket:
    """Bind the port without listening, so that it stays ours while workers come and go.

    Raises:
        ConfigError: somebody else has it.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    address = (host.strip("[]"), port)
    with _reported(setting, host, port), socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(address)  # fails if anybody listens, even one who would share
        address = (address[0], int(probe.getsockname()[1]))
    holder = socket.socket(family, socket.SOCK_STREAM)
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    with _reported(setting, host, port):
        holder.bind(address)
    return holder


@contextlib.contextmanager
def _reported(setting: str, host: str, port: int) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ConfigError(f"{setting}: cannot listen on {host}:{port}; is another server running there?") from error
