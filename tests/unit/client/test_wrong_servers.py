"""Servers that answer what no server should: both clients raise an error of convserve, and no other."""

from __future__ import annotations

import asyncio
import logging
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import grpc
import pytest

import convserve
from convserve import AsyncClient, Client
from convserve.client import replies
from convserve.v1 import classification_pb2 as pb
from convserve.v1 import error_details_pb2
from support.fake_server import FakeServer, refuse


@contextmanager
def answering(*messages: bytes) -> Iterator[str]:
    """A server that answers every call with OK and these bytes. Gives its address."""

    class Handler(grpc.GenericRpcHandler):
        def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[bytes, bytes] | None:
            if details.method.endswith("/Watch"):  # no health service
                return None
            return grpc.unary_stream_rpc_method_handler(lambda request, context: iter(messages))

    with ThreadPoolExecutor(4) as pool:
        server = grpc.server(pool, handlers=[Handler()])
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        try:
            yield f"127.0.0.1:{port}"
        finally:
            server.stop(grace=None).wait()


CALLS: dict[str, Callable[[Client], object]] = {
    "classify": lambda client: client.classify(b"\x01", model="m"),
    "classify_batch": lambda client: client.classify_batch([b"\x01"], model="m"),
    "model": lambda client: client.model("m"),
    "models": lambda client: client.models(),
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("messages", [(), (b"\xff\xff no message",)], ids=["none", "unreadable"])
def test_a_call_that_ends_well_without_a_message_is_an_error(
    messages: tuple[bytes, ...], call: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither None, which gRPC gives for it, nor what comes of None."""
    caplog.set_level(logging.CRITICAL)  # gRPC logs the traceback of what it could not read
    with answering(*messages) as target:
        with Client(target) as client, pytest.raises(convserve.InternalError) as caught:
            CALLS[call](client)
        assert caught.value.request_id

        async def test() -> None:
            async with AsyncClient(target) as client:
                with pytest.raises(convserve.InternalError, match="without a message") as caught:
                    await CALLS[call](client)  # type: ignore[arg-type, misc]  # the same methods
                assert caught.value.request_id

        asyncio.run(test())


def test_a_reply_that_claims_billions_of_rows_takes_no_memory() -> None:
    """What does not fit is refused before anything is made of it."""
    reply = pb.ClassifyResponse(results=[pb.ImageResult(predictions=[pb.Prediction(label="a")])])
    reply.batches.add(request_rows=10_000_000, rows=1)
    tracemalloc.start()
    try:
        with pytest.raises(convserve.InternalError, match="in batches of 10000000 rows"):
            replies.classifications(reply, 1)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1e6


def test_a_server_may_ask_for_any_patience(fake: FakeServer) -> None:
    """Also for more seconds than a thread can wait: a call without end waits, until its client is closed."""
    refused = threading.Event()
    details = error_details_pb2.RetryInfo()
    details.retry_delay.seconds = 2**63 - 1

    def before(request: pb.ClassifyRequest, context: grpc.ServicerContext) -> None:
        refused.set()
        refuse(context, grpc.StatusCode.RESOURCE_EXHAUSTED, "queue full", "RetryInfo", details)

    fake.before = before
    with Client(fake.target, timeout=float("inf")) as client, ThreadPoolExecutor(1) as pool:
        call = pool.submit(client.classify, b"\x01", model="m")
        assert refused.wait(30)
        with pytest.raises(TimeoutError):
            call.result(0.5)
        client.close()
        assert isinstance(call.exception(30), convserve.CancelledError)
