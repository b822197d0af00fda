"""A server in which everything that is counted has happened at least once."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import grpc
import numpy as np
import pytest

from convserve.v1 import classification_pb2 as pb
from convserve.v1 import classification_pb2_grpc as rpc
from support import versions
from support.server import ServerProcess, serving

SETTINGS = """
[model]
max_batch_size = 64
allowed_batch_sizes = [4, 64]
version_policy = "all"
aliases = { stable = 1, canary = 2 }
shadow = "canary"
"""


class Traffic:
    """Requests of several sizes over several connections, good and bad, until it is stopped."""

    def __init__(self, target: str) -> None:
        self._stop = threading.Event()
        self._channels = ExitStack()
        options = [("grpc.use_local_subchannel_pool", 1)]
        self._stubs = [
            rpc.ClassificationServiceStub(self._channels.enter_context(grpc.insecure_channel(target, options)))
            for _ in range(8)
        ]
        self._thread = threading.Thread(target=self._run)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()
        self._channels.close()

    def once(self) -> None:
        """One round: enough images in each worker for an index of drift, two mistakes."""
        for stub in self._stubs:
            for count in (3, 64, 500):
                stub.Classify(_request(count), timeout=60)
            for wrong in (_request(65 * 16), _request(1, "unknown")):
                with pytest.raises(grpc.RpcError):
                    stub.Classify(wrong, timeout=60)

    def _run(self) -> None:
        while not self._stop.wait(0.1):
            for stub in self._stubs:
                stub.Classify(_request(3), timeout=60)


def _request(count: int, model: str = "stripes") -> pb.ClassifyRequest:
    images = np.random.default_rng().integers(0, 256, (count, *versions.SHAPE), dtype=np.uint8)
    return pb.ClassifyRequest(model=model, packed=pb.PackedImages(data=images.tobytes(), shape=images.shape))


@pytest.fixture(scope="session")
def lively_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """Two workers, two versions, aliases, a shadow, and traffic that goes on."""
    root: Path = tmp_path_factory.mktemp("lively")
    versions.write_version(root / "repository", version=1)
    versions.write_version(root / "repository", version=2, seed=1)
    config = root / "convserve.toml"
    config.write_text(SETTINGS)
    with serving(root / "repository", root, "--workers", "2", "--config", str(config)) as server:
        traffic = Traffic(server.target)
        traffic.once()
        traffic.start()
        try:
            yield server
        finally:
            traffic.stop()
