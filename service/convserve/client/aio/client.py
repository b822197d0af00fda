"""The asynchronous client."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, Iterable, Sequence
from types import TracebackType
from typing import TypeVar, overload

from convserve.client import replies, requests, tracing
from convserve.client.aio.calls import Calls
from convserve.client.aio.coalescer import Coalescer
from convserve.client.images import ImageLike, Loaded, load, takes_time
from convserve.client.requests import Chunk, Chunker, Options
from convserve.client.results import Classification, ModelInfo
from convserve.client.retry import Retries, Retry
from convserve.client.security import Tls, Token
from convserve.client.settings import (
    DEFAULT_CONNECTIONS,
    DEFAULT_MAX_MESSAGE_BYTES,
    DEFAULT_TIMEOUT,
    RPCS_IN_FLIGHT,
    SERVING,
    Settings,
    Terms,
    check_request_id,
    check_timeout,
    new_request_id,
    tls_of,
)
from convserve.client.tracing import Trace
from convserve.v1 import classification_pb2 as pb
from convserve.v1 import model_pb2

I = TypeVar("I", bound=ImageLike)  # noqa: E741  # an image


class AsyncClient:
    """Classifies images with a convserve server. One client serves all tasks of an event loop.

    Connections are made at the first call, and again when they were lost. Close the client, or use it as an
    asynchronous context manager, to drop them. It belongs to the event loop of its first call.

    Failed RPCs are repeated while the deadline and the retry settings allow it. Every call may raise, besides what it
    names itself:

    * UnavailableError: the server cannot be reached, is loading or is draining.
    * DeadlineError: the deadline has passed, or the server refused because it cannot be met.
    * OverloadedError: the queue is full; `retry_after_seconds` says when to try again.
    * UnauthenticatedError, PermissionDeniedError: credentials are missing, wrong, or not enough.
    * UnsupportedError: the server does not have this method.
    * InternalError: the server failed; `request_id` finds the reason in its log.
    * CancelledError: the client was closed meanwhile.
    * ClosedError: the client was closed before, or used before this process was forked.
    """

    def __init__(
        self,
        target: str,
        *,
        timeout: float = DEFAULT_TIMEOUT,
        coalesce: bool = True,
        connections: int = DEFAULT_CONNECTIONS,
        retry: Retry | None = Retry(),  # noqa: B008  # frozen
        wait_for_ready: bool = False,
        health_check: bool = True,
        tls: bool | Tls = False,
        token: Token | None = None,
        plaintext_token: bool = False,
        max_message_bytes: int = DEFAULT_MAX_MESSAGE_BYTES,
    ) -> None:
        """Prepare to talk to `target`; no connection is made yet.

        Args:
            target: `host:port`, or any name gRPC resolves: `dns:///models.example:8001` uses all addresses of the
                name, `ipv4:10.0.0.1:8001,10.0.0.2:8001` these two, `unix:/run/convserve.sock` a socket.
            timeout: seconds that a call may take, its repetitions included, unless the call says otherwise. Infinity:
                for ever.
            coalesce: whether single images of concurrent callers travel as one RPC. A lone caller never waits for
                others.
            connections: connections to each address; a server with several workers spreads them.
            retry: how failed RPCs are repeated; None: never.
            wait_for_ready: whether calls wait, until their deadline, for a server that cannot be reached; if not, they
                fail when the retries are used up.
            health_check: whether addresses that say NOT_SERVING (`grpc.health.v1`) are left out. Servers without health
                service count as healthy.
            tls: True: TLS with the machine's usual roots; or a `Tls` that says more.
            token: bearer token, or a function that gives the current one.
            plaintext_token: whether the token may travel without TLS to another machine.
            max_message_bytes: bytes of the largest message, sent or received. The server has a limit of its own.

        Raises:
            ConfigError: an argument is wrong, or a file cannot be read.
        """
        settings = Settings(
            target=target,
            timeout=timeout,
            max_message_bytes=max_message_bytes,
            connections=connections,
            retry=retry,
            wait_for_ready=wait_for_ready,
            health_check=health_check,
            tls=tls_of(tls),
            token=token,
            plaintext_token=plaintext_token,
        )
        self._settings = settings
        self._calls = Calls(settings, Retries(retry))
        self._coalescer: Coalescer | None = None
        if coalesce:
            self._coalescer = Coalescer(self._send, self._calls.retries.budget, max_message_bytes, connections)

    async def __aenter__(self) -> AsyncClient:
        """Return the client itself."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close the client."""
        await self.close()

    async def close(self) -> None:
        """Drop the connections. Calls under way end with CancelledError."""
        await self._calls.close()
        if self._coalescer is not None:
            await self._coalescer.close()

    @overload
    async def classify(
        self,
        image: ImageLike,
        *,
        model: str,
        version: int | str | None = None,
        top_k: int = 1,
        timeout: float | None = None,
        explain: bool = False,
        request_id: str | None = None,
    ) -> Classification: ...

    @overload
    async def classify(
        self,
        image: list[I] | tuple[I, ...],
        *,
        model: str,
        version: int | str | None = None,
        top_k: int = 1,
        timeout: float | None = None,
        explain: bool = False,
        request_id: str | None = None,
    ) -> list[Classification]: ...

    async def classify(
        self,
        image: ImageLike | list[I] | tuple[I, ...],
        *,
        model: str,
        version: int | str | None = None,
        top_k: int = 1,
        timeout: float | None = None,
        explain: bool = False,
        request_id: str | None = None,
    ) -> Classification | list[Classification]:
        """Classify one image; or several, in a list or tuple, as `classify_batch` does.

        Args:
            image: path of an image file, its bytes, a file object, a Pillow image, or a uint8 array [H, W] or [H, W, C]
                in the model's shape.
            model: name of the model.
            version: version number, or alias such as `stable`. None: the server's choice.
            top_k: classes to return, most probable first.
            timeout: seconds the call may take; None: the client's.
            explain: whether the result tells how its batch ran.
            request_id: id for the server's logs; None: a new one. An image with an id of its own travels alone.

        Raises:
            InvalidRequestError: this is no image, or not one that the model takes.
            NotFoundError: no such model, version or alias.
            VersionNotAvailableError: the version exists and cannot answer.
            OSError: the file cannot be read.
        """
        if isinstance(image, list | tuple):
            return await self.classify_batch(
                image,
                model=model,
                version=version,
                top_k=top_k,
                timeout=timeout,
                explain=explain,
                request_id=request_id,
            )
        deadline = self._begin(timeout, request_id)
        options = Options(model, version, top_k, explain)
        options.check()
        loaded = await _load(image, 0)
        if request_id is None and self._coalescer is not None and self._coalescer.takes(loaded):
            return await self._coalescer.classify(loaded, options, deadline, tracing.current())
        request = requests.of_one(loaded, options, self._settings.max_message_bytes)
        terms = Terms(deadline, request_id or new_request_id(), tracing.current())
        (result,) = await self._classify(request, 1, terms)
        return result

    async def classify_batch(
        self,
        images: Iterable[ImageLike] | AsyncIterable[ImageLike],
        *,
        model: str,
        version: int | str | None = None,
        top_k: int = 1,
        timeout: float | None = None,
        explain: bool = False,
        request_id: str | None = None,
    ) -> list[Classification]:
        """Classify many images; the results are in the order of the images.

        Many images travel in several RPCs, some at a time. If one fails, the others are given up and its error is
        raised; positions in it count from the first image. Arguments and errors are those of `classify`, but:

        Args:
            images: any iterable or async iterable of images, of any kinds mixed; or one uint8 array [N, H, W] or
                [N, H, W, C].
            model: name of the model.
            version: version number, or alias such as `stable`. None: the server's choice.
            top_k: classes to return for each image, most probable first.
            timeout: seconds the whole call may take; None: each RPC has the client's timeout.
            explain: whether each result tells how its batch ran.
            request_id: id for the server's logs; RPCs after the first add `-` and the position of their first image.
        """
        ends = self._begin(timeout, request_id)
        until = None if timeout is None else ends
        options = Options(model, version, top_k, explain)
        return [result async for result in self._results(images, options, until, request_id, requests.MAX_ROWS)]

    def classify_iter(
        self,
        images: Iterable[ImageLike] | AsyncIterable[ImageLike],
        *,
        model: str,
        version: int | str | None = None,
        top_k: int = 1,
        timeout: float | None = None,
        explain: bool = False,
        request_id: str | None = None,
        batch_size: int = requests.MAX_ROWS,
    ) -> AsyncGenerator[Classification, None]:
        """Classify a stream of images, however long; the results come in the order of the images.

        Images are taken from the iterable as results are taken from here: at most five times `batch_size` are held. If
        an RPC fails, an image cannot be read, or the iterable raises, the error comes after the results before it.
        `aclose` gives the rest up.
        Arguments and errors are those of `classify_batch`, but:

        Args:
            images: any iterable or async iterable of images, of any kinds mixed, also one without end.
            model: name of the model.
            version: version number, or alias such as `stable`. None: the server's choice.
            top_k: classes to return for each image, most probable first.
            timeout: seconds that each RPC may take; None: the client's.
            explain: whether each result tells how its batch ran.
            request_id: id for the server's logs; RPCs after the first add `-` and the position of their first image.
            batch_size: images that travel in one RPC. A source that brings them slowly wants fewer, or single calls.
        """
        requests.check_batch_size(batch_size)
        self._begin(timeout, request_id)
        requests.check_many(images)
        options = Options(model, version, top_k, explain)
        options.check()
        return self._results(images, options, None, request_id, batch_size, timeout, is_stream=True)

    async def models(self, *, timeout: float | None = None) -> list[ModelInfo]:
        """Describe every model of the server with all its versions, sorted by name; those that failed included."""
        terms = Terms(self._begin(timeout), new_request_id(), tracing.current())
        request = model_pb2.ListModelsRequest()
        reply = await self._calls.ask(self._calls.control, lambda made: made.list_models, request, terms)
        return [replies.model_info(model) for model in reply.models]

    async def model(self, name: str, *, timeout: float | None = None) -> ModelInfo:
        """Describe one model.

        Raises:
            NotFoundError: the server has no such model.
        """
        terms = Terms(self._begin(timeout), new_request_id(), tracing.current())
        request = model_pb2.GetModelRequest(name=name)
        reply = await self._calls.ask(self._calls.control, lambda made: made.get_model, request, terms)
        return replies.model_info(reply.model)

    async def health(self, *, timeout: float | None = None) -> bool:
        """Whether the server says that it takes requests (`grpc.health.v1`). Asks once, without repetitions.

        Raises:
            UnavailableError: the server cannot be reached.
        """
        terms = Terms(self._begin(timeout), new_request_id(), repeat=False)
        return await self._calls.ask(self._calls.control, lambda made: made.check_health, b"", terms) == SERVING

    def _begin(self, timeout: float | None, request_id: str | None = None) -> float:
        """Check what every call checks. Returns the call's deadline."""
        self._calls.check_usable()
        check_timeout(timeout)
        check_request_id(request_id)
        return asyncio.get_running_loop().time() + self._settings.seconds(timeout)

    async def _send(
        self, images: Sequence[Loaded], options: Options, deadline: float, trace: Trace
    ) -> list[Classification]:
        """Classify images of one kind in one RPC."""
        request = requests.request_of(images, options)
        return await self._classify(request, len(images), Terms(deadline, new_request_id(), trace))

    async def _classify(self, request: pb.ClassifyRequest, rows: int, terms: Terms) -> list[Classification]:
        reply = await self._calls.ask(self._calls.pool, lambda made: made.classify, request, terms)
        return replies.classifications(reply, rows)

    async def _results(
        self,
        images: Iterable[ImageLike] | AsyncIterable[ImageLike],
        options: Options,
        until: float | None,
        request_id: str | None,
        rows: int,
        timeout: float | None = None,
        *,
        is_stream: bool = False,
    ) -> AsyncGenerator[Classification, None]:
        """Send images in chunks, some at a time, and give the results in order.

        All chunks must be back at `until`, or each within `timeout` seconds. What is under way is given up when the
        iteration ends early. One generator, not one around another that it closes: an event loop that ends closes both.
        """
        request_id = request_id or new_request_id()
        trace = tracing.current()
        clock = asyncio.get_running_loop().time
        pending: deque[asyncio.Task[list[Classification]]] = deque()
        source = _read(images, Chunker(options, self._settings.max_message_bytes, rows), is_stream=is_stream)
        failure: Exception | None = None
        try:
            while True:
                try:
                    chunk = await anext(source, None)
                except Exception as error:
                    if not is_stream:
                        raise
                    chunk, failure = None, error
                if chunk is None:
                    break
                if len(pending) == RPCS_IN_FLIGHT:
                    for result in await pending.popleft():
                        yield result
                deadline = until if until is not None else clock() + self._settings.seconds(timeout)
                chunk_id = f"{request_id}-{chunk.first}" if chunk.first else request_id
                terms = Terms(deadline, chunk_id, trace, chunk.first)
                pending.append(asyncio.create_task(self._classify(chunk.request, chunk.rows, terms)))
            while pending:
                for result in await pending.popleft():
                    yield result
            if failure is not None:
                raise failure
        finally:
            failure = None
            for task in pending:
                task.cancel()
            await asyncio.gather(*pending, return_exceptions=True)


async def _read(
    images: Iterable[ImageLike] | AsyncIterable[ImageLike], chunker: Chunker, *, is_stream: bool
) -> AsyncGenerator[Chunk, None]:
    """Read images and put them into requests, as `requests.chunks` does."""
    requests.check_many(images)
    try:
        async for image in _each(images):
            chunk = chunker.add(await _load(image, chunker.next_index))
            if chunk is not None:
                yield chunk
    except Exception:
        if is_stream and (chunk := chunker.finish()) is not None:
            yield chunk
        raise
    chunk = chunker.finish()
    if chunk is not None:
        yield chunk


async def _each(images: Iterable[ImageLike] | AsyncIterable[ImageLike]) -> AsyncGenerator[ImageLike, None]:
    if isinstance(images, AsyncIterable):
        async for image in images:
            yield image
    else:
        for image in images:
            yield image


async def _load(image: ImageLike, index: int) -> Loaded:
    """Read an image; on another thread where that may take time."""
    return await asyncio.to_thread(load, image, index) if takes_time(image) else load(image, index)
