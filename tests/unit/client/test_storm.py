"""Hundreds of callers at once: each gets exactly its own answer, whatever happens to the others."""

from __future__ import annotations

import asyncio
import random
import threading
from collections import Counter
from collections.abc import Sequence
from typing import Any

import grpc
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import convserve
from convserve import AsyncClient, Client, Retry
from convserve.v1 import classification_pb2 as pb
from support.fake_server import FakeServer, first_bytes, refuse, refuse_images

BAD = (98, 99)
CALLERS = 300


def image(value: int) -> Any:
    """Files and pixels of two shapes; the value is what the server answers."""
    if value % 3 == 0 and value not in BAD:
        return np.full((1 + value % 2, 2), value, np.uint8)
    return bytes([value, 1, 2])


def restless(seed: int) -> Any:
    """A server that refuses bad images and sometimes ends a call as one that shuts down or is full does."""
    chance = random.Random(seed)
    lock = threading.Lock()
    bad = refuse_images(*BAD)

    def before(request: pb.ClassifyRequest, context: Any) -> None:
        with lock:
            luck = chance.random()
        if luck < 0.05:
            refuse(context, grpc.StatusCode.UNAVAILABLE, "shutting down")
        if luck < 0.1:
            refuse(context, grpc.StatusCode.RESOURCE_EXHAUSTED, "queue full")
        bad(request, context)

    return before


def check(value: int, impatient: bool, outcome: Any) -> None:
    if isinstance(outcome, convserve.DeadlineError):
        assert impatient
    elif value in BAD:
        assert isinstance(outcome, convserve.InvalidRequestError)
        assert str(outcome) == f"encoded.images[0]: is a damaged {value}"
    else:
        assert outcome.index == value


def nobody_is_left(client: Client | AsyncClient) -> bool:
    """Else callers to come would wait for them."""
    coalescer: Any = client._coalescer
    lanes = coalescer._lanes._lanes.values() if coalescer is not None else ()
    return not any(lane.under_way or lane.inside or lane.answered or lane.group for lane in lanes)


values = st.lists(st.integers(0, 199), min_size=CALLERS, max_size=CALLERS)
quiet = settings(
    max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


@quiet
@given(values=values, seed=st.integers(0, 2**32))
@pytest.mark.parametrize("coalesce", [True, False])
def test_threads_get_their_own_answers(fake: FakeServer, coalesce: bool, values: Sequence[int], seed: int) -> None:
    """Good and bad images, deadlines that pass, servers that fail now and then."""
    fake.before = restless(seed)
    chance = random.Random(seed)
    impatient = [chance.random() < 0.1 for _ in values]
    outcomes: list[Any] = [None] * len(values)
    barrier = threading.Barrier(len(values))
    retry = Retry(attempts=20, initial_seconds=0.001, budget=10_000)

    def call(at: int) -> None:
        barrier.wait(30)
        try:
            timeout = 0.003 if impatient[at] else 60
            outcomes[at] = client.classify(image(values[at]), model="m", timeout=timeout)
        except convserve.ConvserveError as error:
            outcomes[at] = error

    with Client(fake.target, coalesce=coalesce, retry=retry) as client:
        threads = [threading.Thread(target=call, args=(at,)) for at in range(len(values))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert nobody_is_left(client)
    for value, short, outcome in zip(values, impatient, outcomes, strict=True):
        check(value, short, outcome)


@quiet
@given(values=values, seed=st.integers(0, 2**32))
def test_tasks_get_their_own_answers(fake: FakeServer, values: Sequence[int], seed: int) -> None:
    """The same, and some are cancelled on the way."""
    fake.before = restless(seed)
    chance = random.Random(seed)
    impatient = [chance.random() < 0.1 for _ in values]
    retry = Retry(attempts=20, initial_seconds=0.001, budget=10_000)

    async def test() -> list[Any]:
        async with AsyncClient(fake.target, retry=retry) as client:
            tasks = [
                asyncio.create_task(client.classify(image(value), model="m", timeout=0.003 if short else 60))
                for value, short in zip(values, impatient, strict=True)
            ]
            for task in chance.sample(tasks, 40):
                asyncio.get_running_loop().call_later(chance.random() * 0.01, task.cancel)
            outcomes = await asyncio.gather(*tasks, return_exceptions=True)
            assert client._coalescer is not None
            while client._coalescer._tasks:  # of callers who have gone
                await asyncio.sleep(0)
            assert nobody_is_left(client)
            return outcomes

    outcomes = asyncio.run(test())
    kinds = Counter(type(outcome) for outcome in outcomes)
    assert kinds[asyncio.CancelledError] <= 40
    for value, short, outcome in zip(values, impatient, outcomes, strict=True):
        if not isinstance(outcome, asyncio.CancelledError):
            check(value, short, outcome)


def test_nobody_fails_because_of_others(fake: FakeServer) -> None:
    """Half of the images are bad, and the other half is answered, each once."""
    fake.before = refuse_images(*range(0, 200, 2))
    outcomes: list[Any] = [None] * 200
    barrier = threading.Barrier(200)

    def call(value: int) -> None:
        barrier.wait(30)
        try:
            outcomes[value] = client.classify(bytes([value]), model="m").index
        except convserve.InvalidRequestError as error:
            outcomes[value] = str(error)

    with Client(fake.target) as client:
        threads = [threading.Thread(target=call, args=(value,)) for value in range(200)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    assert outcomes == [value if value % 2 else f"encoded.images[0]: is a damaged {value}" for value in range(200)]
    assert max(len(first_bytes(request)) for request in fake.requests) > 1
