"""The asynchronous client against a server of this process."""

from __future__ import annotations

import asyncio
import gc
import math
import threading
import weakref
from collections.abc import AsyncIterator, Callable, Coroutine
from io import BytesIO
from pathlib import Path
from typing import Any, TypeVar

import grpc
import numpy as np
import pytest

import convserve
from convserve import AsyncClient, Classification
from convserve.client import coalescing
from convserve.client.settings import RPCS_IN_FLIGHT
from convserve.v1 import classification_pb2 as pb
from convserve.v1 import model_pb2
from support.fake_server import FakeServer, Gate, first_bytes, refuse, refuse_images, running

T = TypeVar("T")
HELD = 250


def run(test: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run a test's coroutine; no test takes longer than a minute."""

    async def limited() -> T:
        async with asyncio.timeout(60):
            return await test()

    return asyncio.run(limited())


@pytest.fixture
def no_window(monkeypatch: pytest.MonkeyPatch) -> None:
    """Groups go when something returns or they are full."""
    monkeypatch.setattr(coalescing, "WINDOW_SECONDS", 60.0)
    monkeypatch.setattr(coalescing, "BUSY_SECONDS", 60.0)


async def arrival(gate: Gate) -> None:
    await asyncio.to_thread(gate.await_arrival)


async def until(condition: Callable[[], bool]) -> None:
    for _ in range(6000):
        if condition():
            return
        await asyncio.sleep(0.005)
    raise AssertionError("it did not happen")


def gathered(client: AsyncClient) -> int:
    assert client._coalescer is not None
    lanes = client._coalescer._lanes._lanes.values()
    return sum(len(lane.group.rows) for lane in lanes if lane.group is not None)


async def crowd(
    client: AsyncClient, fake: FakeServer, *images: Any, **options: Any
) -> tuple[Gate, asyncio.Task[Classification], list[asyncio.Task[Classification]]]:
    """Have callers gather behind an RPC that the server holds."""
    gate = Gate(HELD)
    fake.before = gate
    held = asyncio.create_task(client.classify(bytes([HELD]), model="m"))
    await arrival(gate)
    tasks = [asyncio.create_task(client.classify(image, model="m", **options)) for image in images]
    await until(lambda: gathered(client) == len(images))
    return gate, held, tasks


def test_everything_that_the_other_client_does(fake: FakeServer, tmp_path: Path) -> None:
    """One or many images of every kind, models, and health."""
    fake.models = [model_pb2.Model(name="digits", default_version=2)]
    path = tmp_path / "image.png"
    path.write_bytes(b"\x05abc")

    async def test() -> None:
        async with AsyncClient(fake.target) as client:
            found = await client.classify(path, model="digits", version="stable", top_k=2, explain=True)
            assert (found.label, found.index, len(found.top), found.model_version) == ("class 5", 5, 2, 4)
            assert found.batch is not None
            assert (await client.classify(BytesIO(b"\x06"), model="m", request_id="order-66")).request_id == "order-66"
            assert (await client.classify(np.full((2, 2), 9, np.uint8), model="m")).index == 9
            assert [one.index for one in await client.classify([path, path], model="m")] == [5, 5]
            assert await client.classify_batch([], model="m") == []
            (model,) = await client.models()
            assert await client.model("digits") == model
            with pytest.raises(convserve.NotFoundError, match="no model other"):
                await client.model("other")
            assert await client.health()
            fake.say(b"\x08\x02")
            assert not await client.health()

    run(test)


@pytest.mark.parametrize("is_async", [True, False])
def test_many_images_come_back_in_order(fake: FakeServer, is_async: bool) -> None:
    """From an iterable or an async iterable; some RPCs at a time."""
    values = np.random.default_rng(0).integers(0, 256, 300, dtype=np.uint8)

    async def source() -> AsyncIterator[bytes]:
        for value in values:
            yield bytes([value])

    async def test() -> None:
        async with AsyncClient(fake.target) as client:
            images = source() if is_async else values[:, None, None]
            found = await client.classify_batch(images, model="m", request_id="job")
            assert [one.index for one in found] == values.tolist()
            assert sorted(str(data["x-request-id"]) for data in fake.metadata) == sorted(
                ["job", "job-64", "job-128", "job-192", "job-256"]
            )

    run(test)


def test_a_stream_is_read_as_it_is_used(fake: FakeServer) -> None:
    """An endless one takes bounded memory, and ends when nobody wants more."""
    taken = 0

    def endless() -> Any:
        nonlocal taken
        while True:
            taken += 1
            yield bytes([taken % 200])

    async def test() -> None:
        async with AsyncClient(fake.target) as client:
            results = client.classify_iter(endless(), model="m", batch_size=8)
            seen = [(await anext(results)).index for _ in range(100)]
            assert seen == [index % 200 for index in range(1, 101)]
            assert taken <= 100 + 8 * (RPCS_IN_FLIGHT + 1)
            await results.aclose()

    run(test)


def test_a_stream_gives_what_came_before_its_source_failed(fake: FakeServer) -> None:
    """A batch, which is all or nothing, sends no rest of a request."""

    async def source() -> AsyncIterator[bytes]:
        for value in (1, 2, 3, 4, 5):
            yield bytes([value])
        raise KeyError

    async def test() -> None:
        async with AsyncClient(fake.target) as client:
            results = client.classify_iter(source(), model="m", batch_size=2)
            assert [(await anext(results)).index for _ in range(5)] == [1, 2, 3, 4, 5]
            with pytest.raises(KeyError):
                await anext(results)
            fake.requests.clear()
            with pytest.raises(KeyError):
                await client.classify_batch(source(), model="m")
            assert not fake.requests

    run(test)


def test_a_stream_that_nobody_ends_ends_with_its_event_loop(fake: FakeServer) -> None:
    """Quietly, and with what it has under way."""
    told: list[dict[str, Any]] = []
    kept = []

    async def test() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
        client = AsyncClient(fake.target)
        for _ in range(5):
            stream = client.classify_iter([b"\x01"] * 300, model="m", batch_size=2)
            assert (await anext(stream)).index == 1
            kept.append(stream)

    run(test)
    assert told == []


def test_a_failed_request_does_not_wait_for_the_garbage_collector(fake: FakeServer) -> None:
    """Nor would a stream that is left, with its tasks, whose errors would be logged as never looked at."""
    fake.before = refuse_images(99)

    async def test() -> None:
        async with AsyncClient(fake.target) as client:
            try:
                await client.classify(bytes([99]), model="m")
            except convserve.InvalidRequestError as error:
                kept = weakref.ref(error)  # by its traceback, what the frames hold
            await asyncio.sleep(0)
            assert kept() is None

    gc.disable()
    try:
        run(test)
    finally:
        gc.enable()


def test_a_failure_ends_a_batch(fake: FakeServer) -> None:
    """The position counts from the first image."""
    fake.before = refuse_images(99)

    async def test() -> None:
        async with AsyncClient(fake.target) as client:
            with pytest.raises(convserve.InvalidRequestError, match=r"encoded\.images\[70\]: is a damaged 99"):
                await client.classify_batch([*[b"\x01"] * 70, b"\x63", b"\x01"], model="m")
        assert len(asyncio.all_tasks()) == 1

    run(test)


@pytest.mark.parametrize("images", ["image.png", b"\x89PNG"])
def test_one_image_where_many_are_wanted_is_refused(fake: FakeServer, images: Any) -> None:
    """Before anything is sent."""

    async def test() -> None:
        async with AsyncClient(fake.target) as client:
            with pytest.raises(convserve.InvalidRequestError, match="give a list of images"):
                await client.classify_batch(images, model="m")
            with pytest.raises(convserve.InvalidRequestError, match="give a list of images"):
                client.classify_iter(images, model="m")
            with pytest.raises(convserve.InvalidRequestError, match="batch_size"):
                client.classify_iter([], model="m", batch_size=0)
            with pytest.raises(convserve.InvalidRequestError, match="timeout"):
                await client.classify(b"\x01", model="m", timeout=-1)

    run(test)


@pytest.mark.usefixtures("no_window")
def test_callers_behind_an_rpc_travel_together(fake: FakeServer) -> None:
    """And nothing is left afterwards."""

    async def test() -> None:
        async with AsyncClient(fake.target) as client:
            gate, held, tasks = await crowd(client, fake, *[bytes([value]) for value in range(20)])
            gate.open()
            assert [(await task).index for task in [held, *tasks]] == [HELD, *range(20)]
            assert [first_bytes(request) for request in fake.requests] == [[HELD], list(range(20))]
            assert client._coalescer is not None
            await until(lambda: client._coalescer is not None and not len(client._coalescer._lanes))
            assert not client._coalescer._tasks

    run(test)


@pytest.mark.usefixtures("no_window")
def test_callers_who_come_back_together_travel_together(fake: FakeServer) -> None:
    """The first of them does not go alone, and half of them do not wait for the other half."""

    async def test() -> None:
        async with AsyncClient(fake.target) as client:

            async def twice(value: int) -> list[int]:
                return [(await client.classify(bytes([one]), model="m")).index for one in (value, 100 + value)]

            gate = fake.before = Gate(HELD)
            held = asyncio.create_task(client.classify(bytes([HELD]), model="m"))
            await arrival(gate)
            tasks = [asyncio.create_task(twice(value)) for value in range(9)]
            await until(lambda: gathered(client) == 9)
            gate.open()
            assert await asyncio.gather(*tasks) == [[value, 100 + value] for value in range(9)]
            await held
            assert [len(first_bytes(request)) for request in fake.requests] == [1, 9, 5, 4]

    run(test)


@pytest.mark.usefixtures("no_window")
def test_an_array_may_be_used_again_once_its_call_has_begun(fake: FakeServer) -> None:
    """While it waits for others, too: what was in it at the call is what travels."""

    async def test() -> None:
        async with AsyncClient(fake.target) as client:
            frame = np.full((2, 2, 1), 1, np.uint8)
            gate = fake.before = Gate(1)
            tasks = [asyncio.create_task(client.classify(frame, model="m"))]
            await arrival(gate)
            for value in (2, 3):
                frame[:] = value
                tasks.append(asyncio.create_task(client.classify(frame, model="m")))
                await until(lambda: gathered(client) == len(tasks) - 1)
            frame[:] = 4
            gate.open()
            assert [(await task).index for task in tasks] == [1, 2, 3]

    run(test)


def test_the_window_ends_the_wait(fake: FakeServer) -> None:
    """An RPC that takes long holds nobody."""

    async def test() -> None:
        async with AsyncClient(fake.target, connections=1) as client:
            gate = fake.before = Gate(HELD)
            held = asyncio.create_task(client.classify(bytes([HELD]), model="m"))
            await arrival(gate)
            found = await asyncio.gather(*[client.classify(bytes([value]), model="m") for value in range(70)])
            assert [one.index for one in found] == list(range(70))
            assert not held.done()
            gate.open()
            await held

    run(test)


@pytest.mark.usefixtures("no_window")
def test_cancelled_and_late_callers_leave_alone(fake: FakeServer) -> None:
    """The others are answered; those who left are not sent."""

    async def test() -> None:
        async with AsyncClient(fake.target) as client:
            gate, held, (one, two, three) = await crowd(client, fake, b"\x01", b"\x02", b"\x03")
            late = asyncio.create_task(client.classify(b"\x04", model="m", timeout=0.05))
            two.cancel()
            with pytest.raises(asyncio.CancelledError):
                await two
            with pytest.raises(convserve.DeadlineError):
                await late
            gate.open()
            assert [(await task).index for task in (held, one, three)] == [HELD, 1, 3]
            assert first_bytes(fake.requests[-1]) == [1, 3]

    run(test)


@pytest.mark.usefixtures("no_window")
def test_each_caller_is_told_at_its_own_deadline(fake: FakeServer) -> None:
    """Whatever order they come in, while they gather and while their RPC is under way; others may have none."""
    timeouts = (60, 0.3, 0.1, math.inf, 0.2)

    async def test() -> None:
        async with AsyncClient(fake.target) as client:

            async def call(at: int) -> int:
                started = asyncio.get_running_loop().time()
                with pytest.raises(convserve.DeadlineError):
                    await client.classify(bytes([at]), model="m", timeout=timeouts[at])
                assert asyncio.get_running_loop().time() - started >= timeouts[at] - 1e-3
                return at

            gate, held, patient = await crowd(client, fake, b"\x00", b"\x03", timeout=math.inf)
            assert [await told for told in asyncio.as_completed([call(1), call(2), call(4)])] == [2, 4, 1]
            second = fake.before = Gate(0)
            gate.open()
            await arrival(second)
            assert await call(1) == 1  # gathers behind the RPC
            second.open()
            assert [(await task).index for task in (held, *patient)] == [HELD, 0, 3]

    run(test)


@pytest.mark.usefixtures("no_window")
def test_an_rpc_that_nobody_waits_for_is_given_up(fake: FakeServer) -> None:
    """Alone or together, before it begins or after."""

    async def test() -> None:
        async with AsyncClient(fake.target) as client:
            gate, held, tasks = await crowd(client, fake, b"\xfa", b"\x02")
            second, gone = Gate(HELD), threading.Event()

            def before(request: pb.ClassifyRequest, context: Any) -> None:
                context.add_callback(gone.set)
                second(request, context)

            fake.before = before
            gate.open()
            await arrival(second)
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            assert await asyncio.to_thread(gone.wait, 30)
            await held
        async with AsyncClient(fake.target) as client:
            gate, held, tasks = await crowd(client, fake, b"\x01")
            gate.open()
            held.add_done_callback(lambda _: tasks[0].cancel())  # its task exists, and has not begun
            await asyncio.wait([held, *tasks])
            await until(lambda: client._coalescer is not None and not len(client._coalescer._lanes))
            lone = asyncio.create_task(client.classify(b"\x05", model="m"))
            await asyncio.sleep(0)
            lone.cancel()
            await asyncio.wait([lone])
            assert (await client.classify(b"\x06", model="m")).index == 6

    run(test)


@pytest.mark.usefixtures("no_window")
def test_whoever_cancels_the_clients_own_tasks_leaves_nobody_waiting(fake: FakeServer) -> None:
    """As an application does that ends all tasks but some."""

    async def test() -> None:
        async with AsyncClient(fake.target) as client:
            gate, held, tasks = await crowd(client, fake, b"\x01", b"\x02")
            fake.before = second = Gate(1)
            gate.open()
            await held
            await arrival(second)
            for task in asyncio.all_tasks() - {*tasks, asyncio.current_task()}:
                task.cancel()
            async with asyncio.timeout(20):
                found = await asyncio.gather(*tasks, return_exceptions=True)
            assert [type(one) for one in found] == [convserve.CancelledError] * 2
            second.open()
            fake.before = lambda request, context: None
            assert (await client.classify(b"\x03", model="m")).index == 3

    run(test)


@pytest.mark.usefixtures("no_window")
def test_one_bad_image_fails_only_its_caller(fake: FakeServer) -> None:
    """The others are sent again without it."""

    async def test() -> None:
        async with AsyncClient(fake.target) as client:
            gate, held, tasks = await crowd(client, fake, *[bytes([value]) for value in (1, 2, 99, 3)])
            fake.before = refuse_images(99)
            gate.open()
            await held
            found = await asyncio.gather(*tasks, return_exceptions=True)
            assert [one.index for one in found if isinstance(one, Classification)] == [1, 2, 3]
            assert str(found[2]) == "encoded.images[0]: is a damaged 99"

    run(test)


def test_failures_are_repeated(fake: FakeServer) -> None:
    """As often as the settings say."""
    failures = 2

    def before(request: pb.ClassifyRequest, context: Any) -> None:
        if len(fake.requests) <= failures:
            refuse(context, grpc.StatusCode.UNAVAILABLE, "shutting down")

    fake.before = before

    async def test() -> None:
        async with AsyncClient(fake.target) as client:
            assert (await client.classify(b"\x01", model="m")).index == 1
        async with AsyncClient(fake.target, retry=None) as client:
            fake.requests.clear()
            with pytest.raises(convserve.UnavailableError, match="shutting down"):
                await client.classify(b"\x01", model="m")

    run(test)


def test_a_client_closed_before_its_first_image_was_read_sends_nothing(fake: FakeServer) -> None:
    """Reading takes time on another thread; connections made after the end would never be closed."""
    begun, go_on = threading.Event(), threading.Event()

    class Slow(BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            begun.set()
            assert go_on.wait(30)
            return b"\x01"

    async def test() -> None:
        client = AsyncClient(fake.target)
        calls = [asyncio.create_task(client.classify(Slow(), model="m", request_id=one)) for one in (None, "id")]
        await asyncio.to_thread(begun.wait, 30)
        await client.close()
        go_on.set()
        for call in calls:
            with pytest.raises(convserve.ClosedError, match="closed"):
                await call

    run(test)
    assert fake.requests == []


@pytest.mark.usefixtures("no_window")
def test_closing_ends_calls_under_way(fake: FakeServer) -> None:
    """Those that gather, those on their way, and those that wait to be repeated; afterwards there are none."""

    async def test() -> None:
        client = AsyncClient(fake.target)
        _, held, tasks = await crowd(client, fake, b"\x01", b"\x02")
        await client.close()
        for task in [held, *tasks]:
            with pytest.raises(convserve.CancelledError, match="the client was closed"):
                await task
        with pytest.raises(convserve.ClosedError, match="closed"):
            await client.classify(b"\x01", model="m")
        await client.close()

        slow = AsyncClient(fake.target, retry=convserve.Retry(initial_seconds=60, max_seconds=60), timeout=600)
        refused = threading.Event()

        def before(request: pb.ClassifyRequest, context: Any) -> None:
            refused.set()
            refuse(context, grpc.StatusCode.UNAVAILABLE, "shutting down")

        fake.before = before
        waiting = asyncio.create_task(slow.classify(b"\x01", model="m"))
        await asyncio.to_thread(refused.wait, 30)
        await slow.close()
        with pytest.raises(convserve.CancelledError, match="the client was closed"):
            await waiting
        assert len(asyncio.all_tasks()) == 1

    run(test)


def test_a_cancelled_caller_is_cancelled_although_the_client_closes(fake: FakeServer) -> None:
    """Its own cancellation is not turned into an error."""

    async def test() -> None:
        client = AsyncClient(fake.target)
        _, held, _ = await crowd(client, fake)
        held.cancel()
        await client.close()
        with pytest.raises(asyncio.CancelledError):
            await held

    run(test)


def test_a_client_belongs_to_one_event_loop(fake: FakeServer) -> None:
    """The error says so; without a call before, any loop may have it."""
    client = AsyncClient(fake.target)

    async def call() -> int:
        return (await client.classify(b"\x01", model="m")).index

    async def first() -> None:
        assert await call() == 1
        await client.close()

    unused = AsyncClient(fake.target)
    run(unused.close)
    other = AsyncClient(fake.target)

    async def use() -> int:
        return (await other.classify(b"\x02", model="m")).index

    with asyncio.Runner() as one, asyncio.Runner() as two:
        assert one.run(use()) == 2
        with pytest.raises(convserve.ClosedError, match="another event loop"):
            two.run(use())
        one.run(other.close())
    run(first)


def test_waiting_for_a_server() -> None:
    """With wait_for_ready, a call lasts until the server is there, or its deadline."""
    with running() as gone:
        target = gone.target

    async def test() -> None:
        async with AsyncClient(target, wait_for_ready=True) as client:
            with pytest.raises(convserve.DeadlineError):
                await client.classify(b"\x01", model="m", timeout=0.05)
            call = asyncio.create_task(client.classify(b"\x05", model="m", timeout=60))
            await asyncio.sleep(0)
            with running(port=int(target.rpartition(":")[2])):
                assert (await call).index == 5

    run(test)


def test_a_server_that_is_not_there_is_unavailable() -> None:
    """The error names the address."""
    with running() as fake:
        target = fake.target

    async def test() -> None:
        async with AsyncClient(target, retry=None) as client:
            with pytest.raises(convserve.UnavailableError, match=target):
                await client.classify(b"\x01", model="m")
            with pytest.raises(convserve.UnavailableError):
                await client.health()

    run(test)
