"""RPCs of the synchronous client: over which connection, how often, and with which error they end."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypeVar, cast

import grpc

from convserve.client import process, status
from convserve.client.connections import Pool, Slot
from convserve.client.retry import Retries
from convserve.client.settings import HEALTH_CHECK, Settings, Terms, grpc_timeout
from convserve.errors import CancelledError, ClosedError, ConvserveError, UnavailableError
from convserve.v1.classification_pb2_grpc import ClassificationServiceStub
from convserve.v1.model_pb2_grpc import ModelServiceStub

if TYPE_CHECKING:
    from grpc import UnaryUnaryMultiCallable

Q = TypeVar("Q")
A = TypeVar("A")


class Connection:
    """A channel and the methods called over it. gRPC connects at the first call, and again when it was lost."""

    def __init__(self, settings: Settings, *, health_check: bool) -> None:
        """Make the channel."""
        options = settings.channel_options(health_check=health_check)
        credentials = settings.credentials()
        if credentials is None:
            self.channel = grpc.insecure_channel(settings.target, options)
        else:
            self.channel = grpc.secure_channel(settings.target, credentials, options)
        models = ModelServiceStub(self.channel)
        self.classify = ClassificationServiceStub(self.channel).Classify
        self.list_models = models.ListModels
        self.get_model = models.GetModel
        self.check_health: UnaryUnaryMultiCallable[bytes, bytes] = self.channel.unary_unary(HEALTH_CHECK)


Method: TypeAlias = "Callable[[Connection], UnaryUnaryMultiCallable[Q, A]]"
"""Finds a method of a connection."""


class Calls:
    """What the RPCs of one client share. Thread-safe; channels are made at the first call."""

    def __init__(self, settings: Settings, retries: Retries) -> None:
        """Follow `settings`; nothing is opened yet."""
        self.settings = settings
        self.retries = retries
        self._lock = threading.Lock()
        self._generation = process.generation()
        self._used = False
        self._pool: Pool[Connection] | None = None
        self._control_pool: Pool[Connection] | None = None
        self.closed = threading.Event()
        """Set at the end."""

    def check_usable(self) -> None:
        """Refuse work that nobody could do.

        Raises:
            ClosedError: the client was closed, or this is a forked process.
        """
        self._check_open()
        if not self._used:
            self._generation, self._used = process.generation(), True  # in this order: other threads look too
        process.check(self._generation)

    @property
    def pool(self) -> Pool[Connection]:
        """Connections for classifying."""
        if self._pool is None:
            with self._lock:
                self._check_open()
                if self._pool is None:
                    count, check = self.settings.connections, self.settings.health_check
                    self._pool = Pool([Connection(self.settings, health_check=check) for _ in range(count)])
        return self._pool

    @property
    def control(self) -> Pool[Connection]:
        """A connection that also reaches servers which say NOT_SERVING: to ask what they have and how they are."""
        if self._control_pool is None:
            with self._lock:
                self._check_open()
                if self._control_pool is None:
                    self._control_pool = Pool([Connection(self.settings, health_check=False)])
        return self._control_pool

    def _check_open(self) -> None:
        if self.closed.is_set():
            raise ClosedError("the client is closed; make a new one")

    def close(self) -> None:
        """Drop all connections; calls under way end with CancelledError. May be called twice, and after a fork."""
        self.closed.set()
        if self._generation != process.generation():  # the parent's, who still uses them
            return
        with self._lock:
            pools = [pool for pool in (self._pool, self._control_pool) if pool is not None]
        for pool in pools:
            for connection in pool:
                connection.channel.close()


class Call(Generic[Q, A]):
    """One RPC, with its repetitions: `finish`; or `start`, and later `finish` or `cancel`."""

    __slots__ = ("_attempts", "_calls", "_future", "_method", "_pool", "_request", "_slot", "_terms")

    def __init__(self, calls: Calls, pool: Pool[Connection], method: Method[Q, A], request: Q, terms: Terms) -> None:
        """Prepare to send `request` to `method` over a connection of `pool`."""
        self._calls = calls
        self._pool = pool
        self._method = method
        self._request = request
        self._terms = terms
        self._attempts = 0
        self._slot: Slot[Connection] | None = None
        self._future: Any = None

    def start(self) -> None:
        """Send the request once, without waiting."""
        self._slot = self._pool.take()
        try:
            self._future = self._method(self._slot.connection).future(self._request, **self._arguments())
        except BaseException as failure:
            self._give_back(failed=False)
            if isinstance(failure, ValueError) and self._calls.closed.is_set():
                raise status.closed(self._terms.request_id) from failure
            raise

    def cancel(self) -> None:
        """Give up what was started."""
        if self._future is not None:
            self._future.cancel()
            self._give_back(failed=False)

    def finish(self) -> A:
        """Wait for the reply; send, or send again, as often as that makes sense.

        Raises:
            ConvserveError: what the last attempt ended with.
        """
        retries = self._calls.retries
        while True:
            self._attempts += 1
            try:
                reply = self._attempt()
            except grpc.RpcError as failure:
                error = self._error_of(failure)
                left = self._terms.deadline - time.monotonic()
                delay = retries.delay(error, self._attempts, left) if self._terms.repeat else None
                failure.__traceback__ = None  # its frames refer to it, when it is the future that was waited for
                try:
                    if delay is None:
                        raise error from failure
                finally:
                    del error  # whose traceback refers to this frame: the request would wait for the garbage collector
                if self._calls.closed.wait(min(delay, threading.TIMEOUT_MAX)):
                    raise status.closed(self._terms.request_id) from failure
            else:
                if reply is None:
                    raise status.without_reply(self._terms.request_id)
                retries.budget.deposit()
                return reply

    def _attempt(self) -> A:
        """Wait for what `start` has sent, or send the request and wait."""
        failed = False
        try:
            if self._future is not None:
                future, self._future = self._future, None
                reply: A = future.result()
            else:
                self._slot = self._pool.take()
                reply = self._method(self._slot.connection)(self._request, **self._arguments())
        except grpc.RpcError as failure:
            failed = cast("grpc.Call", failure).code() in status.SERVER_IS_GONE
            raise
        except ValueError as failure:  # what gRPC raises when a call comes after the end
            if self._calls.closed.is_set():
                raise status.closed(self._terms.request_id) from failure
            raise
        finally:
            self._give_back(failed=failed)
        return reply

    def _arguments(self) -> dict[str, Any]:
        settings, terms = self._calls.settings, self._terms
        return {
            "timeout": grpc_timeout(terms.deadline - time.monotonic()),
            "metadata": settings.metadata(terms.request_id, terms.trace),
            "wait_for_ready": settings.wait_for_ready or None,
        }

    def _give_back(self, *, failed: bool) -> None:
        slot, self._slot = self._slot, None
        if slot is not None:
            self._pool.give_back(slot, failed=failed)

    def _error_of(self, failure: grpc.RpcError) -> ConvserveError:
        error = status.error_of(failure, self._terms.request_id, self._terms.first_image)
        return (
            status.closed(self._terms.request_id)
            if isinstance(error, _MAYBE_CLOSED) and self._calls.closed.is_set()
            else error
        )


_MAYBE_CLOSED = (CancelledError, UnavailableError)
