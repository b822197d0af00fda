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
from concurrent.futures import FIRST_EXCEPTION, Future, InvalidStateError, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from multiprocessing import Pipe
from typing import Any

import structlog
from prometheus_client import CollectorRegistry, Gauge

from convserve.config import Settings
from convserve.errors import ConfigError, ConvserveError, InternalError, UnavailableError
from convserve.host import CpuPlan
from convserve.server.aggregate import AggregateCollector, Family, keep_growing, merge
from convserve.server.hangs import wait_for_hang
from convserve.server.http import HttpServer
from convserve.server.line import Line, Question
from convserve.server.restarts import Restarts
from convserve.tallies import Counts

log = structlog.get_logger(__name__)

_ANSWER_SECONDS = 5.0
"""How long a worker may take to tell what it counted; Prometheus itself waits 10 seconds for all of them."""
_END_SECONDS = 10.0
"""How long a worker may take to end once its pipe has."""


class _Worker:
    """A process and the line to it."""

    def __init__(self, supervisor: Supervisor, index: int, orders: tuple[Any, ...]) -> None:
        """Start the process. Raises OSError when the machine has no room for one."""
        self.index = index
        self.wishes = orders[-1]
        self.ready = False
        self.begun: Future[list[str]] = Future()
        """The models it serves, once it is ready; or why it could not start."""
        self.said_why = False
        self.hung = False
        """Whether it was killed because it did its work no more."""
        self._last_metrics: list[Family] = []
        self._turn = threading.Lock()
        pipe, other_end = Pipe()
        try:
            self.process = subprocess.Popen(  # noqa: S603  # our own interpreter and module
                [sys.executable, "-m", "convserve.server.worker", str(other_end.fileno())],
                pass_fds=[other_end.fileno()],
                stdin=subprocess.DEVNULL,
            )
        except OSError:
            pipe.close()
            raise
        finally:
            other_end.close()
        with contextlib.suppress(OSError):  # it may be dead already; the line will notice
            pipe.send(orders)
        self.line = Line(pipe, lambda question: supervisor.hear(self, question), self._note_end)
        self.line.start()

    def metrics(self) -> list[Family]:
        """What the worker counted; what it last told when it does not answer."""
        if self.ready and self._turn.acquire(timeout=_ANSWER_SECONDS):
            try:
                with contextlib.suppress(OSError, EOFError, ConvserveError):
                    self._last_metrics = self.line.ask("metrics", timeout=_ANSWER_SECONDS)
            finally:
                self._turn.release()
        return self._last_metrics

    def last_metrics(self) -> list[Family]:
        """What the worker, which has ended, told last; a scrape that is under way may be about to note it."""
        with self._turn:
            return self._last_metrics

    def begin(self, begun: list[str] | ConvserveError) -> None:
        """Note that the worker is ready, with its models, or why it is not; what comes first holds."""
        with contextlib.suppress(InvalidStateError):
            if isinstance(begun, ConvserveError):
                self.begun.set_exception(begun)
            else:
                self.begun.set_result(begun)

    def _note_end(self) -> None:
        self.begin(InternalError(f"worker {self.index} ended before it was ready; see its log"))

    def wait(self, timeout: float) -> int:
        """Wait for the end of the process; end it if it hangs for `timeout` seconds, where that is above 0.

        Returns its status, negative for a signal.
        """
        why = wait_for_hang(self.line, timeout) if timeout > 0 else ""
        self.hung = bool(why)
        if why:
            log.error("worker hangs; killed", worker=self.index, reason=why)
            self.process.kill()
        self.line.ended.wait()
        try:
            return self.process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:  # threads that do not end keep a process whose work is over
            self.process.kill()
            return self.process.wait()


class Supervisor:
    """Runs `plan.workers` workers. `start`, then `stop`; both once."""

    def __init__(self, settings: Settings, plan: CpuPlan) -> None:
        """Put the parts together; nothing is bound or started yet."""
        self._settings = settings
        self._plan = plan
        self._lock = threading.Lock()
        self._workers: dict[int, _Worker] = {}
        self._retired: list[Family] = []
        self._ends = Restarts(plan.workers)
        self._admin_turn = threading.Lock()
        self._wishes: Any = None
        """What administrators have asked for so far, as the workers' managers tell it."""
        self._stopping = threading.Event()
        self.failed = threading.Event()
        """Set when the supervisor has given up."""
        registry = CollectorRegistry()
        registry.register(AggregateCollector(self._snapshots))
        restarts = Counts("convserve_worker_restarts", "Workers that died and were replaced.", (), registry)
        self._restarts = restarts.labels()
        hangs = Counts("convserve_worker_hangs", "Workers that hung and were killed.", (), registry)
        self._hangs = hangs.labels()
        Gauge("convserve_workers", "Workers that answer.", registry=registry).set_function(self._count_ready)
        started = Gauge("process_start_time_seconds", "When the server began, in Unix time.", registry=registry)
        started.set_to_current_time()
        self._registry = registry
        self._port_holder: socket.socket | None = None
        self._admin_port_holder: socket.socket | None = None
        self._http: HttpServer | None = None

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
        try:
            with self._lock:
                workers = [self._start_worker(index) for index in range(self._plan.workers)]
        except OSError as error:
            raise InternalError(f"a worker cannot be started: {error}") from error
        ended, _ = wait_for([worker.begun for worker in workers], return_when=FIRST_EXCEPTION)
        models = [begun.result() for begun in ended]
        for worker in workers:
            threading.Thread(target=self._keep, args=(worker,), name=f"keep-{worker.index}", daemon=True).start()
        return models[0]

    def is_ready(self) -> bool:
        """Whether every worker is."""
        return not self._stopping.is_set() and self._count_ready() == self._plan.workers

    def stop(self) -> None:
        """Have all workers drain at the same time, and wait for them; what does not end in time is killed.

        One that was still starting has accepted next to nothing, and gets no longer than the others need.
        """
        with self._lock:  # from here on none is started
            self._stopping.set()
            workers = sorted(self._workers.values(), key=lambda worker: not worker.ready)
        for worker in workers:
            worker.line.tell("stop")
        give_up = time.monotonic() + self._settings.drain.delay + self._settings.drain.timeout + 10
        for worker in workers:
            try:
                worker.process.wait(max(give_up - time.monotonic(), 0.1) if worker.ready else 0)
            except subprocess.TimeoutExpired:
                if worker.ready:
                    log.error("worker did not drain in time; killed", worker=worker.index)
                worker.process.kill()
                worker.process.wait()
        if self._http is not None:
            self._http.close()
        for holder in (self._port_holder, self._admin_port_holder):
            if holder is not None:
                holder.close()

    def kill(self) -> None:
        """End all workers at once, also those that are stopped and could not end by themselves."""
        for worker in list(self._workers.values()):
            worker.process.kill()

    def hear(self, worker: _Worker, question: Question) -> Any:
        """Answer what a worker asks, or take note of what it tells.

        Raises:
            ConvserveError: an admin method could not be carried out.
        """
        match question:
            case ("ready", models):
                return self._welcome(worker, models)
            case ("failed", reason):
                worker.said_why = True
                return worker.begin(ConfigError(reason))
            case ("totals",):
                return self._shares_of_totals()
        return self._administer(worker, question)

    def _start_worker(self, index: int, *, late: bool = False) -> _Worker:
        """Start a worker in this place, `late` when others serve already.

        Raises:
            OSError: the machine has no room for one.
        """
        orders = (index, self._settings, self._plan, self.grpc_port, self.admin_port, late, self._wishes)
        self._workers[index] = _Worker(self, index, orders)
        return self._workers[index]

    def _welcome(self, worker: _Worker, models: list[str]) -> None:
        """Count a worker in, once it has followed what administrators asked for while it started."""
        with self._admin_turn:
            if self._wishes is not worker.wishes:
                try:
                    worker.line.ask("follow", self._wishes)
                except (ConvserveError, OSError, EOFError) as error:
                    log.error("worker could not follow", worker=worker.index, reason=str(error))
            worker.ready = True
        worker.begin(models)

    def _count_ready(self) -> int:
        with self._lock:
            return sum(worker.ready for worker in self._workers.values())

    def _ready_workers(self) -> list[_Worker]:
        with self._lock:
            return [worker for worker in self._workers.values() if worker.ready]

    def _snapshots(self) -> list[list[Family]]:
        """What every worker counted, asked at the same time, and what those that died had counted."""
        with self._lock:
            workers = list(self._workers.values())
            retired = self._retired
        if not workers:
            return [retired]
        with ThreadPoolExecutor(len(workers)) as pool:
            return [retired, *pool.map(_Worker.metrics, workers)]

    def _shares_of_totals(self) -> list[bytes]:
        """What each worker tells; one that ends meanwhile takes its share along."""
        shares = []
        for worker in self._ready_workers():
            with contextlib.suppress(OSError, EOFError):
                shares.append(worker.line.ask("totals", timeout=_ANSWER_SECONDS))
        return shares

    def _administer(self, asked: _Worker, request: Question) -> Any:
        """Carry an admin method out in one worker after the other. Returns the answer for the caller.

        One method at a time, or two callers could leave workers in different states. A worker that is not ready yet has
        its ports open already; it could not tell its caller of what the others have done.
        """
        with self._admin_turn:
            workers = self._ready_workers()
            if asked not in workers:
                raise UnavailableError("the worker that was asked is not ready; try again")
            try:
                answers = _ask_all(workers, request)
                self._wishes = workers[0].line.ask("wishes")
            except (OSError, EOFError) as error:
                raise UnavailableError("a worker ended while this was carried out; try again") from error
        if request[0] == "unload":
            return answers[0][0], sum(refused for _, refused in answers)
        return answers[0]

    def _keep(self, worker: _Worker) -> None:
        """See to it that there is a worker in this place until the end, or until there is no point in it."""
        index = worker.index
        while True:
            status = worker.wait(self._settings.worker_timeout)
            if worker.hung:
                self._hangs.inc()
            if self._stopping.is_set():
                return
            why = worker.begun.exception()
            log.error("worker died", worker=index, status=status, **({"reason": str(why)} if why else {}))
            last = worker.last_metrics()
            with self._lock:
                worker.ready = False
                self._retired = keep_growing(merge([self._retired, last]))
                del self._workers[index]
            replacement = self._replace(index, was_ready=why is None, said_why=worker.said_why)
            if replacement is None:
                return
            worker = replacement

    def _replace(self, index: int, *, was_ready: bool, said_why: bool) -> _Worker | None:
        """Start a worker in the place of one that ended, in due time; None: the server is to stop."""
        while True:
            with self._lock:
                delay = self._ends.next_delay(index, time.monotonic(), was_ready=was_ready, said_why=said_why)
            if delay is None:
                log.error("workers die in a loop; giving up", worker=index)
                self._stopping.set()
                self.failed.set()
            if self._stopping.wait(delay):
                return None
            with self._lock:
                if self._stopping.is_set():
                    return None
                try:
                    worker = self._start_worker(index, late=True)
                except OSError as error:  # no memory, no processes: wait as after a crash
                    log.error("a worker cannot be started", worker=index, reason=str(error))
                    was_ready = said_why = False
                    continue
            self._restarts.inc()
            return worker


def _ask_all(workers: list[_Worker], request: Question) -> list[Any]:
    """Have every worker carry an admin method out. If one cannot, those that have go back to what was wished before.

    Raises:
        ConvserveError, EOFError, OSError: one could not, or is gone.
    """
    before = workers[0].line.ask("wishes")
    answers: list[Any] = []
    try:
        for worker in workers:
            answers.append(worker.line.ask(*request))
            if request[0] == "load":  # the highest version is what it was for the first one
                request = (*request[:2], answers[0])
    except (ConvserveError, EOFError, OSError):
        for worker in workers[: len(answers)]:
            with contextlib.suppress(ConvserveError, EOFError, OSError):
                worker.line.ask("follow", before)
        raise
    return answers


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
