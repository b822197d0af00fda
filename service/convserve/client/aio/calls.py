"""RPCs of the asynchronous client: over which connection, how often, and with which error they end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, TypeAlias, TypeVar

import grpc

from convserve.client import process, status
from convserve.client.connections import Pool
from convserve.client.retry import Retries
from convserve.client.settings import HEALTH_CHECK, Settings, Terms, grpc_timeout
from convserve.errors import CancelledError, ClosedError, UnavailableError
from convserve.v1.classification_pb2_grpc import ClassificationServiceStub
from convserve.v1.model_pb2_grpc import ModelServiceStub

Q = TypeVar("Q")
A = TypeVar("A")


class Connection:
    """A channel and the methods called over it. gRPC connects at the first call, and again when it was lost."""

    def __init__(self, settings: Settings, *, health_check: bool) -> None:
        """Make the channel, for the running event loop."""
        options = settings.channel_options(health_check=health_check)
        credentials = settings.credentials()
        if credentials is None:
            self.channel = grpc.aio.insecure_channel(settings.target, options)
        else:
            self.channel = grpc.aio.secure_channel(settings.target, credentials, options)
        models = ModelServiceStub(self.channel)
        self.classify = ClassificationServiceStub(self.channel).Classify
        self.list_models = models.ListModels
        self.get_model = models.GetModel
        self.check_health: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = self.channel.unary_unary(HEALTH_CHECK)


Method: TypeAlias = "Callable[[Connection], grpc.aio.UnaryUnaryMultiCallable[Q, A]]"
"""Finds a method of a connection."""


class Calls:
    """Makes the RPCs of one client, which belongs to the event loop of its first call."""

    def __init__(self, settings: Settings, retries: Retries) -> None:
        """Follow `settings`; nothing is opened yet."""
        self.settings = settings
        self.retries = retries
        self._generation = process.generation()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._pool: Pool[Connection] | None = None
        self._control_pool: Pool[Connection] | None = None
        self._closed = asyncio.Event()

    def check_usable(self) -> None:
        """Refuse work that nobody could do.

        Raises:
            ClosedError: the client was closed, or belongs to another process or event loop.
        """
        self._check_open()
        loop = asyncio.get_running_loop()
        if self._loop is None:
            self._loop, self._generation = loop, process.generation()
        process.check(self._generation)
        if loop is not self._loop:
            raise ClosedError("this client was used in another event loop; make one for each loop")

    @property
    def pool(self) -> Pool[Connection]:
        """Connections for classifying."""
        if self._pool is None:
            self._check_open()
            count, check = self.settings.connections, self.settings.health_check
            self._pool = Pool([Connection(self.settings, health_check=check) for _ in range(count)])
        return self._pool

    @property
    def control(self) -> Pool[Connection]:
        """A connection that also reaches servers which say NOT_SERVING: to ask what they have and how they are."""
        if self._control_pool is None:
            self._check_open()
            self._control_pool = Pool([Connection(self.settings, health_check=False)])
        return self._control_pool

    def _check_open(self) -> None:
        if self._closed.is_set():
            raise ClosedError("the client is closed; make a new one")

    async def close(self) -> None:
        """Drop all connections; calls under way end with CancelledError. May be called twice, and after a fork."""
        self._closed.set()
        if self._loop is None or self._generation != process.generation():
            return
        for pool in (self._pool, self._control_pool):
            if pool is not None:
                for connection in pool:
                    await connection.channel.close()

    async def ask(self, pool: Pool[Connection], method: Method[Q, A], request: Q, terms: Terms) -> A:
        """Make an RPC; repeat it as often as that makes sense.

        Raises:
            ConvserveError: what the last attempt ended with.
        """
        attempts = 0
        clock = asyncio.get_running_loop().time
        while True:
            attempts += 1
            try:
                reply = await self._attempt(pool, method, request, terms)
            except grpc.RpcError as failure:
                error = status.error_of(failure, terms.request_id, terms.first_image)
                if isinstance(error, CancelledError | UnavailableError) and self._closed.is_set():
                    raise status.closed(terms.request_id) from failure
                left = terms.deadline - clock()
                delay = self.retries.delay(error, attempts, left) if terms.repeat else None
                try:
                    if delay is None:
                        raise error from failure
                finally:
                    del error  # whose traceback refers to this frame: the request would wait for the garbage collector
                if await self._closed_within(delay):
                    raise status.closed(terms.request_id) from failure
            else:
                if reply is None:
                    raise status.without_reply(terms.request_id)
                self.retries.budget.deposit()
                return reply

    async def _attempt(self, pool: Pool[Connection], method: Method[Q, A], request: Q, terms: Terms) -> A:
        failed = False
        slot = pool.take()
        try:
            return await method(slot.connection)(request, **self._arguments(terms))
        except grpc.aio.AioRpcError as failure:
            failed = failure.code() in status.SERVER_IS_GONE
            raise
        except asyncio.CancelledError:  # closing a channel cancels its calls, not the tasks that wait for them
            task = asyncio.current_task()
            if self._closed.is_set() and (task is None or not task.cancelling()):
                raise status.closed(terms.request_id) from None
            raise
        except grpc.aio.UsageError as failure:  # what gRPC raises when a call comes after the end
            if self._closed.is_set():
                raise status.closed(terms.request_id) from failure
            raise
        finally:
            pool.give_back(slot, failed=failed)

    def _arguments(self, terms: Terms) -> dict[str, Any]:
        return {
            "timeout": grpc_timeout(terms.deadline - asyncio.get_running_loop().time()),
            "metadata": self.settings.metadata(terms.request_id, terms.trace),
            "wait_for_ready": self.settings.wait_for_ready or None,
        }

    async def _closed_within(self, seconds: float) -> bool:
        """Wait; returns early, and True, when the client is closed meanwhile."""
        try:
            async with asyncio.timeout(seconds):
                return await self._closed.wait()
        except TimeoutError:
            return False
