"""Both clients offer the same calls, and nothing of either is left behind."""

from __future__ import annotations

import inspect
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

import convserve
from convserve import AsyncClient, Client
from support.fake_server import FakeServer

CALLS = ["__init__", "classify", "classify_batch", "classify_iter", "models", "model", "health", "close"]


def public(kind: type) -> set[str]:
    return {name for name in vars(kind) if not name.startswith("_")}


def test_the_names_are_the_same() -> None:
    """Nothing has to be learned twice."""
    assert public(Client) == public(AsyncClient) == set(CALLS) - {"__init__"}


@pytest.mark.parametrize("name", CALLS)
def test_the_arguments_are_the_same(name: str) -> None:
    """Names, order and defaults; and every argument is documented."""

    def arguments(kind: type) -> list[tuple[str, Any, Any]]:
        parameters = inspect.signature(getattr(kind, name)).parameters.values()
        return [(one.name, one.kind, one.default) for one in parameters]

    assert arguments(Client) == arguments(AsyncClient)
    for kind in (Client, AsyncClient):
        text = inspect.getdoc(getattr(kind, name)) or ""
        if name.startswith(("classify", "__init__")):
            assert [one for one, _, _ in arguments(kind)[1:] if f"{one}: " not in text] == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"target": ""}, "target is empty"),
        *(
            ({"target": target}, "ports are 0 to 65535")
            for target in (
                "host:70000",
                "[::1]:65536",
                "host:-1",
                "dns:///host:70000",
                "ipv4:10.0.0.1:80,10.0.0.2:70000",
            )
        ),
        ({"timeout": 0}, "timeout is 0; it must be above 0 seconds"),
        ({"connections": 0}, "connections is 0; it must be 1 to 256"),
        ({"max_message_bytes": 100}, "max_message_bytes is 100"),
        ({"token": "secret\n"}, "line break at its end; strip it"),
        ({"target": "models.example:8001", "token": "x"}, "would travel to models.example:8001 unencrypted"),
    ],
)
@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_wrong_arguments_are_refused_at_once(kind: Any, arguments: dict[str, Any], message: str) -> None:
    """By name, before anything is connected."""
    with pytest.raises(convserve.ConfigError, match=message):
        kind(**{"target": "127.0.0.1:1", **arguments})


@pytest.mark.parametrize(
    "target", ["h:65535", "h", "[::1]:80", "ipv6:::1", "unix:/run/a:70000", "ipv4:10.0.0.1:80,10.0.0.2:81"]
)
def test_what_grpc_takes_as_it_is_is_a_target(target: str) -> None:
    """Also what has no port, and what only looks like one."""
    Client(target).close()


def test_no_thread_is_left(fake: FakeServer) -> None:
    """Not after single calls, big batches, streams, and failures."""
    before = set(threading.enumerate())
    with Client(fake.target) as client:
        client.classify(b"\x01", model="m")
        assert client.health()
        client.classify_batch([b"\x01"] * 300, model="m")
        next(client.classify_iter([b"\x01"] * 300, model="m", batch_size=2))
    for thread in set(threading.enumerate()) - before:
        if not thread.name.startswith("ThreadPoolExecutor"):  # the server's
            thread.join(30)
            assert not thread.is_alive()


def python(code: str, target: str) -> str:
    """Run a program that uses the client. Returns what it prints; it must end by itself."""
    command = [sys.executable, "-W", "error", "-c", code, target]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_a_program_ends_although_nothing_was_closed(fake: FakeServer) -> None:
    """With calls made from threads, in batches, and from an event loop."""
    code = """
import asyncio, sys, threading, convserve
client = convserve.Client(sys.argv[1])
for _ in range(8):
    threading.Thread(target=lambda: client.classify(b"\\x05", model="m")).start()
client.classify_batch([b"\\x01"] * 300, model="m")

async def main():
    other = convserve.AsyncClient(sys.argv[1])
    await asyncio.gather(*[other.classify(b"\\x05", model="m") for _ in range(20)])

asyncio.run(main())
print("done")
"""
    assert python(code, fake.target) == "done\n"


def test_a_forked_process_is_told(fake: FakeServer) -> None:
    """A client that was used is of no use in the child and stays good in the parent; an unused one is good in both."""
    code = """
import os, sys, convserve
used, unused = convserve.Client(sys.argv[1]), convserve.Client(sys.argv[1])
used.classify(b"\\x05", model="m")
if os.fork() == 0:
    try:
        used.classify(b"\\x06", model="m")
    except convserve.ClosedError as error:
        print(error, flush=True)
    used.close()
    print(unused.classify(b"\\x07", model="m").index, flush=True)
    with convserve.Client(sys.argv[1]) as new:
        print(new.classify(b"\\x08", model="m").index, flush=True)
    unused.close()
    sys.exit(0)
assert os.wait()[1] == 0
print(used.classify(b"\\x09", model="m").index)
"""
    message, *indices = python(code, fake.target).splitlines()
    assert "was used before the process was forked" in message
    assert indices == ["7", "8", "9"]


def test_a_fork_during_the_first_call_leaves_nothing_half_made(fake: FakeServer) -> None:
    """A client whose first call has begun is used, although it has no connections yet."""
    code = """
import os, sys, convserve
from convserve.client.sync import calls

client = convserve.Client(sys.argv[1])
make, children = calls.Connection, []

def forking(settings, **options):
    if not children and (child := os.fork()):
        children.append(child)
    elif not children:
        calls.Connection = make
        try:
            client.classify(b"\\x06", model="m")
        except convserve.ClosedError as error:
            print(error, flush=True)
        os._exit(0)
    return make(settings, **options)

calls.Connection = forking
print(client.classify(b"\\x05", model="m").index, flush=True)
os.wait()
"""
    assert "was used before the process was forked" in python(code, fake.target)


def test_a_forked_process_is_told_by_the_asynchronous_client(fake: FakeServer) -> None:
    """Not left hanging on its parent's connections."""
    code = """
import asyncio, os, sys
os.environ["GRPC_VERBOSITY"] = "NONE"  # it mentions the fork
import convserve

async def use(client):
    return (await client.classify(b"\\x05", model="m")).index

loop = asyncio.new_event_loop()
used = convserve.AsyncClient(sys.argv[1])
print(loop.run_until_complete(use(used)), flush=True)
if os.fork() == 0:
    try:
        loop.run_until_complete(use(used))
    except convserve.ClosedError as error:
        print(error, flush=True)
    os._exit(0)
assert os.wait()[1] == 0
print(loop.run_until_complete(use(used)))
"""
    first, message, second = python(code, fake.target).splitlines()
    assert (first, second) == ("5", "5")
    assert "was used before the process was forked" in message


def test_the_copyable_example_in_the_docs_runs(fake: FakeServer) -> None:
    """Every Python block of docs/client.md is correct Python."""
    text = (Path(__file__).parents[3] / "docs/client.md").read_text()
    blocks = [block.partition("```")[0] for block in text.split("```python\n")[1:]]
    assert len(blocks) >= 3
    for block in blocks:
        compile(block, "docs/client.md", "exec", flags=0x2000)  # top-level await is allowed
