"""Failed calls of many images leave nothing to the garbage collector: an overloaded server refuses many."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

import convserve
from convserve import AsyncClient, Client
from convserve.client.coalescing import Row
from convserve.client.sync.calls import Call
from support.fake_server import FakeServer, refuse


@contextlib.contextmanager
def without_collector() -> Iterator[None]:
    """Fail if images or requests are left at the end."""
    gc.collect()
    gc.disable()
    try:
        yield
        assert not [one for one in gc.get_objects() if isinstance(one, Call | Row)]
    finally:
        gc.enable()


@pytest.fixture
def refusing(fake: FakeServer) -> FakeServer:
    """A server that refuses everything."""
    fake.before = lambda request, context: refuse(context, grpc.StatusCode.INVALID_ARGUMENT, "no")
    return fake


def test_images_that_travel_together(refusing: FakeServer) -> None:
    """Each thread has an error of its own."""

    def fail(client: Client) -> None:
        for _ in range(5):
            with contextlib.suppress(convserve.InvalidRequestError):
                client.classify(b"\x01", model="m")

    with Client(refusing.target) as client, without_collector(), ThreadPoolExecutor(8) as pool:
        for done in [pool.submit(fail, client) for _ in range(8)]:
            done.result()
        del done


def test_batches_of_several_requests(refusing: FakeServer) -> None:
    """Those that were given up too."""
    with Client(refusing.target) as client, without_collector(), contextlib.suppress(convserve.InvalidRequestError):
        client.classify_batch([b"\x01"] * 200, model="m")


def test_tasks_whose_images_travel_together(refusing: FakeServer) -> None:
    """Each task has an error of its own."""

    async def fail(client: AsyncClient) -> None:
        with contextlib.suppress(convserve.InvalidRequestError):
            await client.classify(b"\x01", model="m")

    async def test() -> None:
        async with AsyncClient(refusing.target) as client:
            with without_collector():
                await asyncio.gather(*[fail(client) for _ in range(20)])
                await asyncio.sleep(0)

    asyncio.run(test())
