"""The client: what other services install. It needs grpcio, protobuf and numpy, and nothing of the server.

A call walks down this package::

    sync.py      the calls, deadlines, big batches in several RPCs
    codec.py     images -> requests, replies -> results
    results.py   what callers get
    status.py    gRPC status -> the error classes of `convserve.errors`
"""

from __future__ import annotations

from convserve.client.codec import ImageLike
from convserve.client.results import BatchInfo, Classification, ModelInfo, Prediction, VersionInfo
from convserve.client.sync import Client

__all__ = ["BatchInfo", "Classification", "Client", "ImageLike", "ModelInfo", "Prediction", "VersionInfo"]
