"""Requests whose message names a time until which an answer is wanted, and that run longer."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest
from prometheus_client import CollectorRegistry

from convserve.clock import monotonic
from convserve.config import AuthSettings
from convserve.errors import CancelledError, ConvserveError
from convserve.metrics import Metrics
from convserve.server import lane
from convserve.server.access import Access
from convserve.server.access_log import AccessLog
from convserve.server.call import Call
from convserve.server.rpc import Cancel, Guard, Reply, Unary
from convserve.v1 import classification_pb2 as pb


class Run:
    """A request that is computed for ever."""

    def __init__(self, reply: Reply) -> None:
        self._reply = reply
        self.why: ConvserveError | None = None

    def cancel(self, why: ConvserveError | None = None) -> None:
        if self.why is None:
            self.why = why or CancelledError()
            self._reply(self.why)


def hold(request: pb.ClassifyRequest, call: Call, reply: Reply) -> Cancel:
    """Takes a request with a timeout in its `top_k`, in milliseconds."""
    call.deadline = min(call.deadline, monotonic() + request.top_k / 1000)
    return Run(reply).cancel


@pytest.fixture(params=[True, False], ids=["lane", "public"])
def channel(request: pytest.FixtureRequest) -> Iterator[grpc.Channel]:
    guard = Guard(Metrics(CollectorRegistry(), "0"), Access(AuthSettings()), AccessLog(0), threads=64)
    method = Unary("test.Held", "Hold", "test", pb.ClassifyRequest, hold, lambda _: "", lambda asked: asked.explain)
    with ThreadPoolExecutor(8) as pool:
        server = grpc.server(pool)
        port = server.add_insecure_port("127.0.0.1:0")
        fast = lane.build(server, [method], guard, pool) if request.param else None
        if fast is None:
            handler = grpc.method_handlers_generic_handler(method.service, {method.name: guard.waiting(method)})
            server.add_generic_rpc_handlers((handler,))
        server.start()
        if fast is not None:
            fast.start()
        with grpc.insecure_channel(f"127.0.0.1:{port}") as made:
            yield made
        server.stop(0).wait()
        if fast is not None:
            fast.close()


def caller(channel: grpc.Channel) -> Any:
    """Calls the method."""
    return channel.unary_unary("/test.Held/Hold", request_serializer=pb.ClassifyRequest.SerializeToString)


@pytest.mark.parametrize("beside", [False, True], ids=["at once", "on a thread"])
def test_a_request_ends_when_its_message_says(channel: grpc.Channel, beside: bool) -> None:
    """By the server's word, while its batch still runs, and long before gRPC's own deadline."""
    call = caller(channel)
    for milliseconds in (1, 50):
        with pytest.raises(grpc.RpcError) as refused:
            call(pb.ClassifyRequest(top_k=milliseconds, explain=beside), timeout=60)
        assert refused.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert refused.value.details() == "the deadline passed before the answer was there"


def test_many_end_each_at_its_own_time(channel: grpc.Channel) -> None:
    """In whatever order they came; one without a time of its own is left alone."""
    call = caller(channel)
    patient = call.future(pb.ClassifyRequest(top_k=10_000_000))
    calls = [call.future(pb.ClassifyRequest(top_k=ms), timeout=60) for ms in (90, 30, 60)]
    assert {one.code() for one in calls} == {grpc.StatusCode.DEADLINE_EXCEEDED}
    assert not patient.done()
    patient.cancel()
