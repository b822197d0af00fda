"""Streams: many requests in one call, answered in their order, each for itself.

One thread reads and starts requests, so that they share batches; the call's own thread waits for the answers in turn::

    requests --(reader)--> start --> Waiting, Waiting, Waiting --(call's thread)--> replies

A request that fails gets a reply that says so, and the stream goes on. At most `AHEAD` requests are under way; then
nothing more is read, and HTTP/2's flow control holds the caller.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

import grpc
import structlog
from google.protobuf.message import Message

from convserve.errors import ConvserveError, InternalError, UnavailableError
from convserve.server.access import Group
from convserve.server.call import Call, call_of
from convserve.server.rpc import DRAINING, Cancel, Guard, Slot, StartMethod
from convserve.server.status import code_of, status_of

log = structlog.get_logger(__name__)

Q = TypeVar("Q", bound=Message)

AHEAD = 64
"""Requests of one stream that may be under way."""


def streaming(
    guard: Guard, api: str, method: str, start: StartMethod[Q], refuse: Callable[[Q, str], bytes]
) -> Callable[[Iterator[Q], grpc.ServicerContext], Iterator[bytes]]:
    """Wrap a method so that a stream of requests is answered by it; `refuse` makes a reply of an error's sentence."""

    def behavior(requests: Iterator[Q], context: grpc.ServicerContext) -> Iterator[bytes]:
        stream = _Stream(guard, api, method, start, refuse, context)
        try:
            guard.authorize(Group.INFERENCE, call_of(api, context))
            with guard.stream(stream.drain):
                yield from stream.serve(requests)
                if stream.drained:
                    raise UnavailableError(DRAINING)
        except ConvserveError as error:
            context.abort_with_status(status_of(error, call_of(api, context).request_id))

    return behavior


class _Waiting(Generic[Q]):
    """A request under way."""

    def __init__(self, request: Q, call: Call) -> None:
        self.request = request
        self.call = call
        self.slot = Slot()
        self.started = time.perf_counter()
        self.cancel: Cancel = lambda why=None: None  # noqa: ARG005


class _Stream(Generic[Q]):
    """One stream."""

    def __init__(
        self,
        guard: Guard,
        api: str,
        method: str,
        start: StartMethod[Q],
        refuse: Callable[[Q, str], bytes],
        context: grpc.ServicerContext,
    ) -> None:
        self._guard = guard
        self._api = api
        self._method = method
        self._start = start
        self._refuse = refuse
        self._context = context
        self._waiting: queue.SimpleQueue[_Waiting[Q] | None] = queue.SimpleQueue()
        self._room = threading.Semaphore(AHEAD)
        self._current: _Waiting[Q] | None = None
        self._gone = False
        self.drained = False

    def drain(self) -> None:
        """End once what was read is answered: the server is going."""
        self.drained = True
        self._waiting.put(None)

    def serve(self, requests: Iterator[Q]) -> Iterator[bytes]:
        """Answer until the caller has sent everything, has gone, or the server drains."""
        if not self._context.add_callback(self._leave):
            return
        threading.Thread(target=self._read, args=(requests,), name="stream", daemon=True).start()
        try:
            while (waiting := self._waiting.get()) is not None:
                yield self._finish(waiting)
                self._room.release()
        finally:
            self._give_up()

    def _leave(self) -> None:
        """The caller has gone, or the call has ended: wake whoever waits."""
        self._gone = True
        self._room.release()
        self._waiting.put(None)
        if (current := self._current) is not None:
            current.cancel()

    def _give_up(self) -> None:
        """Cancel what is left."""
        self._gone = True
        with contextlib.suppress(queue.Empty):
            while True:
                if (waiting := self._waiting.get_nowait()) is not None:
                    waiting.cancel()
                    self._count(waiting, grpc.StatusCode.CANCELLED)

    def _read(self, requests: Iterator[Q]) -> None:
        """Start requests as they come; runs on a thread of its own."""
        try:
            for request in requests:
                self._room.acquire()
                if self._gone or self.drained:
                    return
                self._waiting.put(self._begin(request))
        except grpc.RpcError:  # the caller has gone
            pass
        except Exception as error:  # grpcio raises a bare Exception when the call ended meanwhile
            if not self._gone:
                log.error("stream broke", method=self._method, exc_info=error)
        finally:
            self._waiting.put(None)
            if self._gone:
                self._give_up()

    def _begin(self, request: Q) -> _Waiting[Q]:
        waiting: _Waiting[Q] = _Waiting(request, call_of(self._api, self._context))
        self._guard.enter(self._api)
        try:
            self._guard.begin(waiting.call, self._method)
            self._guard.check(request)
            waiting.cancel = self._start(request, waiting.call, waiting.slot.put)
        except ConvserveError as error:
            waiting.slot.put(error)
        except Exception as error:  # the stream goes on whatever happens
            log.error("request failed", request_id=waiting.call.request_id, method=self._method, exc_info=error)
            waiting.slot.put(InternalError())
        return waiting

    def _finish(self, waiting: _Waiting[Q]) -> bytes:
        """Wait for an answer, and count it."""
        self._current = waiting
        if self._gone:
            waiting.cancel()
        code = grpc.StatusCode.OK
        try:
            return waiting.slot.wait(waiting.call.deadline)
        except ConvserveError as error:
            code = code_of(error)
            return self._refuse(waiting.request, status_of(error, waiting.call.request_id).details)
        finally:
            self._current = None
            self._count(waiting, code)

    def _count(self, waiting: _Waiting[Q], code: grpc.StatusCode) -> None:
        self._guard.leave(waiting.call, self._method, code, time.perf_counter() - waiting.started, None)
