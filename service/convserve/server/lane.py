"""The fast lane: the hot unary methods, driven from one loop over a completion queue of their own.

::

    call arrives -> message arrives -> parse, start -> rows wait          (as long as events come)
    queue dry    -> run one short batch -> one send for each call         (then look for events again)

grpcio's public server hands every call to a thread, which waits for the message, then for its answer. Here nothing
waits: one thread reads events, and computes when there are none left. Calls that would hold it up (image files to
decode, large messages, models that take long) go to threads as on the public path. Everything else about a call (its
id, deadline, access, errors, metrics) is the guard's, on both paths.

This is the only module that touches grpcio's internals. They carry no promise, so it is used with versions that it was
tested with, and the public path serves otherwise. What it relies on:

- a registered method's calls are delivered to the completion queue that asked for them;
- an operation's tag comes back as `event.tag`, and operations are not used twice;
- the server is told of its shutdown only when all calls are over, ours included, so that `stop(grace)` waits for them.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import structlog
from grpc import _common
from grpc._cython import cygrpc  # type: ignore[attr-defined]

from convserve.batching import SHORT_SECONDS, Turns
from convserve.clock import monotonic
from convserve.errors import CancelledError, OverloadedError, UnsupportedError
from convserve.server.call import Call
from convserve.server.rpc import Cancel, Guard, Unary
from convserve.server.status import code_of, status_of
from convserve.server.timeouts import Timeouts

TESTED_VERSIONS = ("1.85.",)
"""Versions of grpcio, by how they begin, whose internals are known to be as described above."""

LARGE_BYTES = 256 * 1024
"""A message from here on is parsed and answered by a thread: taking it apart holds the loop up too long."""

BESIDE = 512
"""Calls that may be on their way to a thread; more are refused at once."""

_POLL_SECONDS = 0.2
_RETRY_SECONDS = 0.05
_NO_FLAGS = 0
_CODES = _common.STATUS_CODE_TO_CYGRPC_STATUS_CODE
_OK = cygrpc.StatusCode.ok

log = structlog.get_logger(__name__)


def build(
    server: grpc.Server, methods: Sequence[Unary[Any]], guard: Guard, threads: ThreadPoolExecutor
) -> FastLane | None:
    """A fast lane for a server that is not started; None when this grpcio is not one of those tested."""
    if grpc.__version__.startswith(TESTED_VERSIONS):
        return FastLane(server, methods, guard, threads)
    log.warning("no fast lane: this grpcio was not tested with it", grpcio=grpc.__version__, tested=TESTED_VERSIONS)
    return None


class FastLane:
    """Answers some methods of a server. `start` after the server's, `close` when it has stopped."""

    def __init__(
        self, server: grpc.Server, methods: Sequence[Unary[Any]], guard: Guard, threads: ThreadPoolExecutor
    ) -> None:
        """Take methods over; before the server starts.

        Args:
            server: whose other methods stay with it.
            methods: what is answered here.
            guard: shared with the public path.
            threads: for calls that would hold the loop up.
        """
        self._server: cygrpc.Server = server._state.server  # type: ignore[attr-defined]  # noqa: SLF001  # see above
        self._queue = cygrpc.CompletionQueue()
        self._server.register_completion_queue(self._queue)
        self._arrivals = [_Arrivals(self, method) for method in methods]
        for arrivals in self._arrivals:
            self._server.register_method(arrivals.path)
        self.guard = guard
        self._threads = threads
        self._room = threading.Semaphore(BESIDE)
        self.turns = Turns()
        """Batchers with rows to run on this lane's thread."""
        self._timeouts = Timeouts()
        self.outbox: list[tuple[cygrpc.ServerCall, Sequence[Any]]] = []
        """Answers of the turn that is being computed; they leave together when it ends."""
        self.ident = 0
        """Of the thread that takes turns."""
        self.calls = 0
        """Calls that are not over; the loop's own."""
        self._closing = False
        self._thread = threading.Thread(target=self._serve, name="lane", daemon=True)

    def start(self) -> None:
        """Ask for calls."""
        for arrivals in self._arrivals:
            self.listen(arrivals)
        self._thread.start()

    def beside(self, work: Callable[[Any], None], argument: Any) -> None:
        """Do work on a thread; called on the lane's.

        Raises:
            OverloadedError: so much waits for threads already that more would only wait too.
        """
        self.turns.share()
        if not self._room.acquire(blocking=False):
            raise OverloadedError(
                f"{BESIDE} image files and large messages are under way or wait; try again, elsewhere if possible",
                retry_after_seconds=_RETRY_SECONDS,
            )

        def run() -> None:
            try:
                work(argument)
            finally:
                self._room.release()

        self._threads.submit(run)

    def close(self) -> None:
        """End, once the server has stopped and nothing is computed any more."""
        self._closing = True
        if self._thread.is_alive():
            self._thread.join()

    def listen(self, arrivals: _Arrivals) -> None:
        """Ask for one more call of a method."""
        try:
            self._server.request_registered_call(self._queue, self._queue, arrivals.path, arrivals)
        except ValueError:  # the server is shutting down
            return

    def end_at(self, deadline: float, cancel: Cancel, call: cygrpc.ServerCall) -> None:
        """Have a request end at a deadline of its own, which gRPC does not know."""
        self._timeouts.add(deadline, cancel)
        if threading.get_ident() != self.ident:
            call.start_server_batch((), _sent)  # wakes the loop, which may not look for that long

    def _post(self) -> None:
        """Send the answers of a turn.

        One after the other without a pause: every answer that is sent wakes gRPC's threads and soon brings the next
        request, and with those in between, each answer and each request would be a system call and a change of thread
        of its own.
        """
        outbox, self.outbox = self.outbox, []
        for call, operations in outbox:
            try:
                call.start_server_batch(operations, _sent)
            except Exception as error:  # one call's trouble must not end the others'
                log.error("answer not sent", exc_info=error)

    def _serve(self) -> None:
        """Handle events, and compute when there are none, or when they do not stop coming."""
        poll, turns, timeouts = self._queue.poll, self.turns, self._timeouts
        timeout = cygrpc.CompletionType.queue_timeout
        compute_at = 0.0
        self.ident = threading.get_ident()
        while not self._closing or self.calls:
            patience = _POLL_SECONDS
            if timeouts.waiting:
                patience = min(timeouts.end(monotonic()), patience)
            event = poll(0.0 if turns else time.time() + patience)
            if event.completion_type != timeout:
                try:
                    event.tag(event)
                except Exception as error:  # one call's trouble must not end the others'
                    log.error("event not handled", exc_info=error)
                del event  # it holds the call, which must be free before the next wait
                if not turns or monotonic() < compute_at:
                    continue
            if turns:
                try:
                    turns.run_one()
                except Exception as error:  # nor may one batch's
                    log.error("batch not handed out", exc_info=error)
                self._post()
                compute_at = monotonic() + SHORT_SECONDS
        self._queue.shutdown()
        while self._queue.poll().completion_type != cygrpc.CompletionType.queue_shutdown:  # answers that were sent
            pass


class _Arrivals:
    """Tag of calls that arrive for one method."""

    def __init__(self, lane: FastLane, method: Unary[Any]) -> None:
        self._lane = lane
        self.method = method
        self.path = method.path

    def __call__(self, event: Any) -> None:
        if not event.success:  # the server is shutting down
            return
        self._lane.listen(self)
        _LaneCall(self._lane, self.method, event)


class _LaneCall(Call):
    """One call. Its events come on the loop's thread; its answer from whichever thread has it."""

    __slots__ = ("_cancel", "_empty", "_gone", "_grpc", "_lane", "_method", "_started")

    def __init__(self, lane: FastLane, method: Unary[Any], event: Any) -> None:
        self._started = time.perf_counter()
        self._lane = lane
        self._method = method
        self._grpc = event.call
        self._cancel: Cancel | None = None
        self._gone = self._empty = False
        super().__init__(method.api, event.invocation_metadata, event.call_details.deadline - time.time())
        lane.calls += 1
        lane.guard.enter(method.api)
        self._grpc.start_server_batch((cygrpc.ReceiveCloseOnServerOperation(_NO_FLAGS),), self._on_close)
        self._grpc.start_server_batch((cygrpc.ReceiveMessageOperation(_NO_FLAGS),), self._on_message)

    def _on_message(self, event: Any) -> None:
        """Parse and start, unless that takes a thread."""
        data = event.batch_operations[0].message()
        lane, method = self._lane, self._method
        if data is None:
            self._on_no_message()
            return
        try:
            if len(data) >= LARGE_BYTES:
                lane.guard.authorize(self.group, self)  # before it takes a place
                lane.beside(self._begin_beside, data)
                return
            request = lane.guard.read(method, data, self)
            if method.decodes(request):
                lane.beside(self._start_beside, request)
                return
            self.turns = lane.turns
            self._start(request)
        except Exception as error:  # noqa: BLE001  # every failure becomes a status
            self._answer(error)

    def _on_no_message(self) -> None:
        """Refuse a caller who sent none. Whether he has gone, or sent one that is too large, the call's end tells."""
        self._empty = True
        if self._gone:
            self._leave_empty()
        else:
            self._refuse(UnsupportedError(f"{self._method.path} takes exactly one message"))

    def _leave_empty(self) -> None:
        outcome = CancelledError("the call ended before its message came") if self._gone else UnsupportedError()
        self._leave(self._code(outcome), outcome)

    def _begin_beside(self, data: bytes) -> None:
        """Parse and start on a thread."""
        try:
            request = self._lane.guard.read(self._method, data, self)
        except Exception as error:  # noqa: BLE001  # every failure becomes a status
            self._answer(error)
        else:
            self._start_beside(request)

    def _start_beside(self, request: Any) -> None:
        """Start on a thread."""
        try:
            if self._gone:
                raise CancelledError("the caller gave the request up before its turn came")
            with self._lane.guard.shares.hold(self._method.model_of(request)):
                self._start(request)
        except Exception as error:  # noqa: BLE001  # every failure becomes a status
            self._answer(error)

    def _start(self, request: Any) -> None:
        deadline = self.deadline
        cancel = self._method.start(request, self, self._answer)
        self._cancel = cancel
        if self.deadline < deadline:  # the message says so
            self._lane.end_at(self.deadline, cancel, self._grpc)
        if self._gone:  # while it started
            cancel()

    def _on_close(self, event: Any) -> None:
        if event.batch_operations[0].cancelled():
            self._gone = True
            if self._cancel is not None:
                self._cancel()
        if self._empty:
            self._leave_empty()
        self._lane.calls -= 1

    def _answer(self, outcome: bytes | BaseException) -> None:
        """Send the answer, or the status that an error stands for."""
        if not isinstance(outcome, bytes):
            self._refuse(outcome)
            self._leave(self._code(outcome), outcome)
            return
        if not self._gone:
            self._send(
                (
                    cygrpc.SendInitialMetadataOperation(None, _NO_FLAGS),
                    cygrpc.SendMessageOperation(outcome, _NO_FLAGS),
                    cygrpc.SendStatusFromServerOperation(None, _OK, b"", _NO_FLAGS),
                )
            )
        self._leave(grpc.StatusCode.OK, outcome)

    def _code(self, error: BaseException) -> grpc.StatusCode:
        """What the call ends with."""
        late = self._gone and self.deadline <= monotonic()  # gRPC ends such calls itself
        return grpc.StatusCode.DEADLINE_EXCEEDED if late else code_of(error)

    def _refuse(self, error: BaseException) -> None:
        """Send the status that an error stands for."""
        if self._gone:
            return
        status = status_of(error, self.request_id)
        self._send(
            (
                cygrpc.SendInitialMetadataOperation(None, _NO_FLAGS),
                cygrpc.SendStatusFromServerOperation(
                    status.trailing_metadata, _CODES[status.code], status.details.encode(), _NO_FLAGS
                ),
            )
        )

    def _leave(self, code: grpc.StatusCode, outcome: bytes | BaseException) -> None:
        self._lane.guard.leave(self, self._method.name, code, time.perf_counter() - self._started, outcome)

    def _send(self, operations: Sequence[Any]) -> None:
        """All that a call is answered with, in one operation."""
        lane = self._lane
        if lane.turns and threading.get_ident() == lane.ident:
            lane.outbox.append((self._grpc, operations))
        else:
            self._grpc.start_server_batch(operations, _sent)


def _sent(event: Any) -> None:
    """Tag of answers: nothing is left to do."""
