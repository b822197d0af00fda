"""What every method of ours shares: access, metrics, errors, drain, and waiting for an answer.

A method starts work and gets a `reply` to call once; whether a thread waits for it is decided here and nowhere else.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeAlias, TypeVar

import grpc
import structlog
from google.protobuf.message import DecodeError, Message

from convserve.clock import monotonic
from convserve.engine import Result
from convserve.errors import (
    ConvserveError,
    DeadlineError,
    InternalError,
    InvalidRequestError,
    OverloadedError,
    UnavailableError,
    UnsupportedError,
)
from convserve.metrics import Metrics
from convserve.server.access import Access, Group
from convserve.server.access_log import AccessLog
from convserve.server.call import Call, call_of
from convserve.server.shares import Shares
from convserve.server.status import code_of, status_of
from convserve.tallies import Distribution, Tally

if TYPE_CHECKING:
    from convserve.server.tracing import Tracing

log = structlog.get_logger(__name__)

Q = TypeVar("Q", bound=Message)
A = TypeVar("A")

_QUIET_NAPS = 10

DRAINING = "the server is shutting down; try another one"


class Malformed:
    """Stands for a message that could not be parsed, until there is a call to refuse."""

    def __init__(self, reason: str) -> None:
        """Remember why."""
        self.reason = reason


def parser(message: type[Q]) -> Callable[[bytes], Q]:
    """Make a deserializer for methods that a guard wraps: bytes that are no such message are the caller's fault.

    gRPC answers INTERNAL when a deserializer raises.
    """

    def parse(data: bytes) -> Q:
        try:
            return message.FromString(data)
        except DecodeError:
            reason = (
                f"the request's {len(data)} bytes are no {message.DESCRIPTOR.name} (cut short, or text is not UTF-8)"
            )
            return Malformed(reason)  # type: ignore[return-value]  # the guard refuses it before a method sees it

    return parse


Reply: TypeAlias = Callable[[bytes | ConvserveError], None]
"""Brings the answer, serialized; called once."""


class Cancel(Protocol):
    """Called when the caller has gone, or is to be told `why`; does nothing once the answer is there."""

    def __call__(self, why: ConvserveError | None = None) -> None:
        """Give the request up."""


StartMethod: TypeAlias = Callable[[Q, Call, Reply], Cancel]
"""A method whose answer comes later. It calls the reply once, unless it raises."""


def replying(reply: Reply, write: Callable[[Result], bytes]) -> Callable[[Result | ConvserveError], None]:
    """Make what the engine calls with a result out of what a method has: a reply, and how to write it.

    Whoever waits is answered whatever happens to the reply.
    """

    def done(outcome: Result | ConvserveError) -> None:
        if isinstance(outcome, ConvserveError):
            reply(outcome)
            return
        try:
            data = write(outcome)
        except Exception as error:  # a mistake of ours must not leave the caller waiting
            log.error("reply not written", exc_info=error)
            reply(InternalError("the reply could not be written"))
        else:
            reply(data)

    return done


@dataclass(frozen=True, slots=True)
class Unary(Generic[Q]):
    """A method whose answer comes later: one message, one answer."""

    service: str
    """Full name of the service."""
    name: str
    """Name of the method."""
    api: str
    """Which of our APIs it belongs to, for metrics."""
    request: type[Q]
    """What is sent to it."""
    start: StartMethod[Q]
    """Starts the work."""
    model_of: Callable[[Q], str]
    """Tells which model a request is for."""
    decodes: Callable[[Q], bool]
    """Tells whether starting takes long, because image files have to be decoded."""
    parse: Callable[[bytes], Q] = field(init=False)
    """Reads a message; one that cannot be read is refused by the guard's `check`."""

    def __post_init__(self) -> None:
        """Prepare the parser once, not for every call."""
        object.__setattr__(self, "parse", parser(self.request))

    @property
    def path(self) -> str:
        """As HTTP has it."""
        return f"/{self.service}/{self.name}"


class Guard:
    """Wraps methods for the synchronous server, and counts the calls under way."""

    def __init__(self, metrics: Metrics, access: Access, access_log: AccessLog, threads: int) -> None:
        """Count on `metrics`, let in whom `access` allows, tell `access_log`; the server has so many threads."""
        self._metrics = metrics
        self._access = access
        self._access_log = access_log
        self.tracing: Tracing | None = None
        """Traces requests; None: nobody does. Set before the first call."""
        self.shares = Shares(threads)
        """Shares the threads out among the models."""
        self._lock = threading.Lock()
        self._active = 0
        self._under_way: dict[str, Tally] = {}
        self._ended: dict[tuple[str, str, str, grpc.StatusCode], tuple[Tally, Distribution]] = {}
        self._draining = False
        self._last_refused = 0.0
        self._streams: set[Callable[[], None]] = set()
        self._max_streams = max(1, threads // 4)

    @property
    def active(self) -> int:
        """Calls under way."""
        return self._active

    def drain(self, quiet_seconds: float, at_most_seconds: float) -> None:
        """Refuse calls with UNAVAILABLE from now on, and wait until none has come for a while.

        gRPC answers a call that reaches a server in the moment of its shutdown with CANCELLED, which no client retries.
        Callers who were told UNAVAILABLE look elsewhere, so that the moment comes when nobody is calling any more.

        The while is counted in naps, not by the clock: on a machine so busy that this thread oversleeps, callers who
        are still on their way are late as well.
        """
        self._draining = True
        with self._lock:
            streams = list(self._streams)
        for end in streams:
            end()
        give_up = monotonic() + at_most_seconds
        quiet_naps = 0
        while quiet_naps < _QUIET_NAPS and monotonic() < give_up:
            last_refused = self._last_refused
            time.sleep(quiet_seconds / _QUIET_NAPS)
            quiet_naps = quiet_naps + 1 if self._last_refused == last_refused else 0

    def waiting(self, method: Unary[Q]) -> grpc.RpcMethodHandler[Q, bytes]:
        """An inference method whose answer comes later: the call's thread waits for it, no longer than the deadline.

        When threads run short they are shared out by model.
        """

        def answer(request: Q, call: Call, context: grpc.ServicerContext) -> bytes:
            with self.shares.hold(method.model_of(request)):
                slot = Slot()
                cancel = method.start(request, call, slot.put)
                if not context.add_callback(cancel):
                    cancel()
                return slot.wait(call.deadline)

        return grpc.unary_unary_rpc_method_handler(
            self._wrap(method.api, method.name, Group.INFERENCE, answer),
            request_deserializer=method.parse,
        )

    def read(self, method: Unary[Q], data: bytes, call: Call) -> Q:
        """Begin the trace, and parse an inference method's message, if the call may be answered at all.

        Raises:
            ConvserveError: as `authorize` and `check` say.
        """
        self.begin(call, method.name)
        self.authorize(Group.INFERENCE, call)
        request = method.parse(data)
        self.check(request)
        return request

    def direct(
        self, api: str, method: str, answer: Callable[[Q, Call], A], group: Group = Group.METADATA
    ) -> Callable[[Q, grpc.ServicerContext], A]:
        """Wrap a method that answers at once."""
        return self._wrap(api, method, group, lambda request, call, _context: answer(request, call))

    def not_offered(self, api: str, method: str, sentence: str) -> grpc.RpcMethodHandler[Any, Any]:
        """A method that is answered UNIMPLEMENTED with a sentence, whatever is sent to it."""

        def refuse(message: Message, call: Call) -> Message:  # noqa: ARG001
            raise UnsupportedError(f"{method}: {sentence}")

        return grpc.unary_unary_rpc_method_handler(self.direct(api, method, refuse))

    def _wrap(
        self, api: str, method: str, group: Group, answer: Callable[[Q, Call, grpc.ServicerContext], A]
    ) -> Callable[[Q, grpc.ServicerContext], A]:
        def behavior(request: Q, context: grpc.ServicerContext) -> A:
            started = time.perf_counter()
            call = call_of(api, context)
            call.group = group
            self.enter(api)
            code = grpc.StatusCode.OK
            outcome: object = None
            try:
                self.begin(call, method)
                self.authorize(group, call)
                self.check(request)
                return answer(request, call, context)
            except Exception as error:  # noqa: BLE001  # every failure becomes a status
                outcome, code = error, code_of(error)
                context.abort_with_status(status_of(error, call.request_id))
            finally:
                self.leave(call, method, code, time.perf_counter() - started, outcome)

        return behavior

    def enter(self, api: str) -> None:
        """Count a request that begins."""
        under_way = self._under_way.get(api)
        if under_way is None:
            under_way = self._under_way[api] = self._metrics.in_flight.labels(api)
        with self._lock:
            self._active += 1
            under_way.value += 1

    def begin(self, call: Call, method: str) -> None:
        """Begin to trace a request, whose metadata may name the caller's trace; health checks have no traces."""
        if self.tracing is not None and call.group is not Group.HEALTH:
            call.trace = self.tracing.begin(call.api, method, call.request_id, call.metadata)

    def leave(self, call: Call, method: str, code: grpc.StatusCode, seconds: float, outcome: object) -> None:
        """Count a request that ends, log it if it is one to be logged, and end its trace.

        An `outcome` that nobody expected is logged with its traceback.
        """
        with self._lock:
            self._active -= 1
            self._under_way[call.api].value -= 1
        ended = (call.api, method, call.model, code)
        count, durations = self._ended.get(ended) or self._bind(*ended)
        count.inc()
        durations.observe(seconds)
        if code is grpc.StatusCode.INTERNAL and isinstance(outcome, BaseException):
            log.error("request failed", request_id=call.request_id, method=method, exc_info=outcome)
        if call.group is not Group.HEALTH:
            self._access_log.note(call, method, code, seconds)
        if call.trace is not None and self.tracing is not None:
            self.tracing.end(call.trace, call.model, call.version, call.rows, code)

    def _bind(self, api: str, method: str, model: str, code: grpc.StatusCode) -> tuple[Tally, Distribution]:
        """Look up, once, what is counted when such a request ends."""
        count = self._metrics.requests.labels(api, method, model, code.name)
        durations = self._metrics.request_seconds.labels(api, method, model)
        self._ended[api, method, model, code] = count, durations
        return count, durations

    def authorize(self, group: Group, call: Call) -> None:
        """Refuse a call whose token does not allow it.

        Raises:
            UnauthenticatedError: there is no valid token.
            PermissionDeniedError: the token is for other methods.
        """
        if not self._access.open:
            self._access.check(group, call.metadata)

    def check(self, request: Message) -> None:
        """Refuse a request that no method should see.

        Raises:
            UnavailableError: the server is draining.
            InvalidRequestError: it could not be parsed.
        """
        if self._draining:
            self._last_refused = monotonic()
            raise UnavailableError(DRAINING)
        if isinstance(request, Malformed):
            raise InvalidRequestError(request.reason)

    @contextmanager
    def stream(self, end: Callable[[], None]) -> Iterator[None]:
        """Count a stream, which holds a thread for as long as it lasts; `end` is called when the server drains.

        Raises:
            OverloadedError: a quarter of the threads are held by streams.
            UnavailableError: the server is draining.
        """
        with self._lock:
            if self._draining:
                raise UnavailableError(DRAINING)
            if len(self._streams) >= self._max_streams:
                raise OverloadedError(
                    f"{len(self._streams)} streams are open, which is all one worker takes; try again, or call singly",
                    retry_after_seconds=1.0,
                )
            self._streams.add(end)
        try:
            yield
        finally:
            with self._lock:
                self._streams.discard(end)


class Slot:
    """Where a thread waits for one answer."""

    def __init__(self) -> None:
        """Be empty."""
        self._full = threading.Lock()
        self._full.acquire()
        self._outcome: bytes | ConvserveError = b""

    def put(self, outcome: bytes | ConvserveError) -> None:
        """Bring the answer; once."""
        self._outcome = outcome
        self._full.release()

    def wait(self, deadline: float) -> bytes:
        """Wait for the answer.

        Raises:
            ConvserveError: the answer is an error, or did not come in time.
        """
        left = deadline - monotonic()
        timeout = -1 if left > threading.TIMEOUT_MAX else max(left, 0)
        if not self._full.acquire(timeout=timeout):
            raise DeadlineError("the deadline passed before the answer was there")
        if isinstance(self._outcome, ConvserveError):
            raise self._outcome
        return self._outcome
