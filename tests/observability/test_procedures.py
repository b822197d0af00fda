"""Canary, promotion and rollback as docs/operations.md tells them, under load, against a real server."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from convserve.v1 import classification_pb2 as pb
from convserve.v1 import classification_pb2_grpc as rpc
from convserve.v1 import model_pb2, model_pb2_grpc
from support import versions
from support.server import ServerProcess, serving
from support.waiting import until

SETTINGS = """
admin_methods = true
repository_poll_interval = 0.1

[models.stripes]
version_policy = "latest:2"
aliases = { stable = 1, canary = 2 }
split = { canary = 20 }
"""
IMAGE = versions.random_images(1)
REQUEST = pb.ClassifyRequest(model="stripes", packed=pb.PackedImages(data=IMAGE.tobytes(), shape=IMAGE.shape))


class Callers:
    """Callers that go on while an operator works; what they get instead of an answer is kept."""

    def __init__(self, channel: grpc.Channel) -> None:
        self._classify = rpc.ClassificationServiceStub(channel).Classify
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._call) for _ in range(2)]
        self.failures: list[grpc.RpcError] = []

    def __enter__(self) -> Callers:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def answers(self) -> Counter[int]:
        """Which versions answer 200 requests, by id."""
        return Counter(self.version(f"user-{number}") for number in range(200))

    def version(self, request_id: str) -> int:
        return int(self._classify(REQUEST, metadata=(("x-request-id", request_id),), timeout=60).model_version)

    def _call(self) -> None:
        while not self._stop.wait(0.005):
            try:
                self._classify(REQUEST, timeout=60)
            except grpc.RpcError as error:
                self.failures.append(error)


@pytest.fixture
def server(repository: Path, tmp_path: Path) -> Iterator[ServerProcess]:
    config = tmp_path / "convserve.toml"
    config.write_text(SETTINGS)
    with serving(repository, tmp_path, "--config", str(config)) as running:
        yield running


def test_canary_promotion_and_rollback(server: ServerProcess, repository: Path) -> None:
    """A fifth of the callers meets the canary, always the same ones; then all do; then all are back; none fails."""

    def point(alias: str, version: int) -> None:
        models.SetAlias(model_pb2.SetAliasRequest(name="stripes", alias=alias, version=version), timeout=60)

    with grpc.insecure_channel(server.target) as channel, Callers(channel) as callers:
        models = model_pb2_grpc.ModelServiceStub(channel)
        assert callers.answers() == {1: 200}

        versions.write_version(repository, version=2, seed=1)
        until(lambda: server.metric("convserve_versions", state="available") == 2)
        assert server.metric("convserve_default_version", model="stripes") == 1
        canary = callers.answers()
        assert 20 <= canary[2] <= 60
        assert callers.answers() == canary

        point("stable", 2)
        assert callers.answers() == {2: 200}
        assert server.metric("convserve_default_version", model="stripes") == 2
        assert server.metric("convserve_alias_info", alias="stable", version="2") == 1

        point("stable", 1)
        point("canary", 1)
        assert callers.answers() == {1: 200}
        assert server.metric("convserve_default_version", model="stripes") == 1
        assert server.metric("convserve_rows_total", model="stripes", version="2") >= 200
    assert callers.failures == []


def test_taking_a_directory_away_rolls_back(server: ServerProcess, repository: Path) -> None:
    """Without aliases: the version below answers before the bad one stops."""
    with grpc.insecure_channel(server.target) as channel, Callers(channel) as callers:
        models = model_pb2_grpc.ModelServiceStub(channel)
        versions.write_version(repository, version=2, seed=1)
        for alias in ("stable", "canary"):
            models.SetAlias(model_pb2.SetAliasRequest(name="stripes", alias=alias, version=0), timeout=60)
        until(lambda: server.metric("convserve_default_version", model="stripes") == 2)
        assert callers.answers() == {2: 200}
        (repository / "stripes/2").rename(repository / "stripes/.2")
        until(lambda: server.metric("convserve_default_version", model="stripes") == 1)
        assert callers.answers() == {1: 200}
    assert callers.failures == []
