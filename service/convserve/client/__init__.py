"""The client: what other services install. It needs grpcio, protobuf and numpy, and nothing of the server.

A call walks down this package::

    sync/, aio/        the calls: one package for threads, one for asyncio, with the same three files
        client.py      what callers see; big batches in several RPCs
        coalescer.py   single images of concurrent callers become one RPC
        calls.py       connections, deadlines, repetitions

    images.py requests.py     images -> requests
    coalescing.py splitting.py    pure: which images travel together, and whom a failure concerns
    retry.py connections.py   pure: which RPC is repeated when, and over which connection
    settings.py security.py tracing.py process.py    options, TLS and tokens, trace context, forks
    replies.py results.py     replies -> what callers get
    status.py                 gRPC status -> the error classes of `convserve.errors`
"""

from __future__ import annotations

from convserve.client.aio import AsyncClient
from convserve.client.images import ImageLike
from convserve.client.results import BatchInfo, Classification, ModelInfo, Prediction, VersionInfo
from convserve.client.retry import Retry
from convserve.client.security import Tls
from convserve.client.sync import Client

__all__ = [
    "AsyncClient",
    "BatchInfo",
    "Classification",
    "Client",
    "ImageLike",
    "ModelInfo",
    "Prediction",
    "Retry",
    "Tls",
    "VersionInfo",
]
