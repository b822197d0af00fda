"""Tokens at a real server: every method, of ours and of others, belongs to a group."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from convserve import AsyncClient, Client
from convserve.errors import PermissionDeniedError, UnauthenticatedError
from convserve.server import app
from convserve.server.access import Group
from convserve.v1 import model_pb2, model_pb2_grpc
from support import server as servers
from support import versions

TOKENS = {group: f"{group.value}-token-0123456789" for group in Group}
DIALECTS = {
    "convserve.v1.ClassificationService": {"Classify": Group.INFERENCE},
    "convserve.v1.ModelService": {
        "ListModels": Group.METADATA,
        "GetModel": Group.METADATA,
        "LoadModel": Group.ADMIN,
        "UnloadModel": Group.ADMIN,
        "SetAlias": Group.ADMIN,
    },
    "inference.GRPCInferenceService": {
        "ModelInfer": Group.INFERENCE,
        "ModelStreamInfer": Group.INFERENCE,
        "ServerLive": Group.HEALTH,
        "ServerReady": Group.HEALTH,
        "ModelReady": Group.HEALTH,
        "ServerMetadata": Group.METADATA,
        "ModelMetadata": Group.METADATA,
        "ModelConfig": Group.METADATA,
        "ModelStatistics": Group.METADATA,
        "RepositoryIndex": Group.METADATA,
        "RepositoryModelLoad": Group.ADMIN,
        "RepositoryModelUnload": Group.ADMIN,
        "SystemSharedMemoryStatus": Group.METADATA,
        "SystemSharedMemoryRegister": Group.METADATA,
        "SystemSharedMemoryUnregister": Group.METADATA,
        "CudaSharedMemoryStatus": Group.METADATA,
        "CudaSharedMemoryRegister": Group.METADATA,
        "CudaSharedMemoryUnregister": Group.METADATA,
        "TraceSetting": Group.METADATA,
        "LogSettings": Group.METADATA,
    },
    "tensorflow.serving.PredictionService": {
        "Predict": Group.INFERENCE,
        "Classify": Group.INFERENCE,
        "GetModelMetadata": Group.METADATA,
        "Regress": Group.METADATA,
        "MultiInference": Group.METADATA,
    },
    "tensorflow.serving.ModelService": {
        "GetModelStatus": Group.METADATA,
        "HandleReloadConfigRequest": Group.METADATA,
    },
    "grpc.health.v1.Health": {"Check": Group.HEALTH, "Watch": Group.HEALTH},
    "grpc.reflection.v1alpha.ServerReflection": {"ServerReflectionInfo": Group.METADATA},
}
METHODS = [
    pytest.param(f"/{service}/{method}", group, id=f"{service.split('.')[0]}-{method}")
    for service, methods in DIALECTS.items()
    for method, group in methods.items()
]


def write_tokens(directory: Path) -> list[str]:
    flags = []
    for group, token in TOKENS.items():
        path = directory / f"{group.value}-tokens"
        path.write_text(token + "\n")
        flags += [f"--auth-{group.value}-tokens-file", str(path)]
    return flags


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[servers.ServerProcess]:
    """A server that asks for a token everywhere, admin methods enabled."""
    root = tmp_path_factory.mktemp("access")
    versions.write_version(root / "repository")
    flags = write_tokens(root)
    with servers.serving(root / "repository", root, "--admin-methods", "true", *flags) as running:
        yield running


@pytest.fixture(scope="module")
def channel(server: servers.ServerProcess) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(server.target) as open_channel:
        yield open_channel


def code_of(channel: grpc.Channel, path: str, *metadata: tuple[str, str]) -> tuple[grpc.StatusCode, str]:
    """How a call with an empty message ends; every kind of call is a stream on the wire."""
    method: grpc.StreamStreamMultiCallable[bytes, bytes] = channel.stream_stream(path)
    answers: Any = method(iter([b""]), metadata=metadata, timeout=20)
    try:
        next(answers, None)  # of what streams, the first answer will do
        answers.cancel()
    except grpc.RpcError as error:
        return error.code(), error.details() or ""
    return grpc.StatusCode.OK, ""


@pytest.mark.parametrize(("path", "group"), METHODS)
def test_every_method_asks_for_its_groups_token(channel: grpc.Channel, path: str, group: Group) -> None:
    """Without a token and with an unknown one a call is UNAUTHENTICATED; with another group's, PERMISSION_DENIED."""
    code, details = code_of(channel, path)
    assert (code, "no token came" in details) == (grpc.StatusCode.UNAUTHENTICATED, True)
    code, _ = code_of(channel, path, ("authorization", "Bearer unknown-token-0123456789"))
    assert code is grpc.StatusCode.UNAUTHENTICATED
    for other, token in TOKENS.items():
        code, details = code_of(channel, path, ("authorization", f"Bearer {token}"))
        if other is group:
            assert code not in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED)
        else:
            assert (code, details) == (
                grpc.StatusCode.PERMISSION_DENIED,
                f"the token does not allow {group.value} methods",
            )


def test_the_test_above_knows_every_method(channel: grpc.Channel) -> None:
    """A service or a method that is added must be put into a group."""
    from grpc_reflection.v1alpha import reflection_pb2 as pb
    from grpc_reflection.v1alpha import reflection_pb2_grpc

    stub = reflection_pb2_grpc.ServerReflectionStub(channel)
    metadata = (("authorization", f"Bearer {TOKENS[Group.METADATA]}"),)
    (answer,) = stub.ServerReflectionInfo(iter([pb.ServerReflectionRequest(list_services="")]), metadata=metadata)
    assert {service.name for service in answer.list_services_response.service} == set(DIALECTS)
    for service, file in app._FILES.items():
        methods = file.services_by_name[service.rpartition(".")[2]].methods
        assert {method.name for method in methods} <= set(DIALECTS[service])  # some are answered and not shown


def test_a_path_that_is_none_is_no_method(server: servers.ServerProcess, channel: grpc.Channel) -> None:
    """Nor does the log fill with tracebacks."""
    for path in ("foo", "*", "/foo"):
        assert code_of(channel, path)[0] is grpc.StatusCode.UNIMPLEMENTED
    assert "Traceback" not in server.log


def test_the_clients_bring_their_token(server: servers.ServerProcess) -> None:
    """The client's errors say which of the two it is."""
    image = versions.random_images(1)[0]
    with Client(server.target, token=TOKENS[Group.INFERENCE], health_check=False) as client:
        assert client.classify(image, model="stripes").label in versions.LABELS
        with pytest.raises(PermissionDeniedError, match="does not allow metadata"):
            client.models()
    with Client(server.target, health_check=False) as client, pytest.raises(UnauthenticatedError):
        client.classify(image, model="stripes")


async def _classify(target: str, token: str | None) -> Any:
    async with AsyncClient(target, token=token, health_check=False) as client:
        return (await client.classify(versions.random_images(1)[0], model="stripes")).label


def test_the_asyncio_client_brings_its_token(server: servers.ServerProcess) -> None:
    """The same with the other client."""
    import asyncio

    assert asyncio.run(_classify(server.target, TOKENS[Group.INFERENCE])) in versions.LABELS
    with pytest.raises(UnauthenticatedError):
        asyncio.run(_classify(server.target, None))


def test_refused_calls_are_counted_under_their_code(server: servers.ServerProcess, channel: grpc.Channel) -> None:
    """Who tries tokens shows in the metrics."""
    before = server.metric("convserve_requests_total", method="Classify", code="UNAUTHENTICATED")
    code_of(channel, "/convserve.v1.ClassificationService/Classify")
    assert server.metric("convserve_requests_total", method="Classify", code="UNAUTHENTICATED") == before + 1


def test_the_log_says_who_may_call(server: servers.ServerProcess) -> None:
    """Which groups are open is no secret, and a mistake should be seen."""
    (told,) = (event for event in server.log_events() if event["event"] == "access")
    assert {group.value: told[group.value] for group in Group} == dict.fromkeys([one.value for one in Group], "tokens")
    assert told["encryption"] == "none"
    assert not any("tokens travel unencrypted" in event["event"] for event in server.log_events())  # it is on loopback


def test_tokens_without_encryption_are_warned_of(repository: Path, tmp_path: Path) -> None:
    """On an address that others reach."""
    path = tmp_path / "tokens"
    path.write_text(TOKENS[Group.INFERENCE])
    flags = ["--auth-inference-tokens-file", str(path), "--host", "0.0.0.0"]
    with servers.serving(repository, tmp_path, *flags) as running:
        assert any("tokens travel unencrypted" in event["event"] for event in running.log_events())


def test_a_server_without_its_tokens_does_not_start(repository: Path, tmp_path: Path) -> None:
    """Never open by accident."""
    ended = servers.run_to_end(repository, "--auth-inference-tokens-file", str(tmp_path / "nowhere"))
    assert ended.returncode == 1
    assert "auth.inference_tokens_file" in ended.stderr


def test_admin_methods_are_refused_unless_enabled(repository: Path, tmp_path: Path) -> None:
    """The public port says so and names the setting, whatever token comes; every other method answers there."""
    path = tmp_path / "tokens"
    path.write_text(TOKENS[Group.ADMIN])
    with (
        servers.serving(repository, tmp_path, "--auth-admin-tokens-file", str(path)) as running,
        grpc.insecure_channel(running.target) as channel,
    ):
        for method in ("convserve.v1.ModelService/LoadModel", "inference.GRPCInferenceService/RepositoryModelUnload"):
            code, details = code_of(channel, f"/{method}", ("authorization", f"Bearer {TOKENS[Group.ADMIN]}"))
            assert (code, "admin_methods" in details) == (grpc.StatusCode.PERMISSION_DENIED, True)
        assert code_of(channel, "/convserve.v1.ModelService/ListModels")[0] is grpc.StatusCode.OK


@pytest.mark.parametrize("workers", [1, 2])
def test_admin_methods_have_a_port_of_their_own(repository: Path, tmp_path: Path, workers: int) -> None:
    """What is changed there is changed for everybody; the public port goes on refusing."""
    versions.write_version(repository, version=2)
    flags = ["--model-version-policy", "specific:1", "--admin-port", "0", "--workers", str(workers)]
    with (
        servers.serving(repository, tmp_path, *flags) as running,
        grpc.insecure_channel(f"127.0.0.1:{running.ready['admin_port']}") as private,
        grpc.insecure_channel(running.target) as public,
        Client(running.target) as client,
    ):
        request = model_pb2.LoadModelRequest(name="stripes", version=2)
        with pytest.raises(grpc.RpcError) as refused:
            model_pb2_grpc.ModelServiceStub(public).LoadModel(request)
        assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED
        assert model_pb2_grpc.ModelServiceStub(private).LoadModel(request).version.version == 2
        for _ in range(4 * workers):
            assert client.classify(versions.random_images(1)[0], model="stripes", version=2).model_version == 2


def test_an_admin_port_that_others_reach_needs_to_know_them(repository: Path) -> None:
    """Tokens or certificates; without either the server does not start."""
    ended = servers.run_to_end(repository, "--admin-port", "0", "--admin-host", "0.0.0.0")
    assert ended.returncode == 2
    assert "auth.admin_tokens_file or tls.client_ca_file" in ended.stderr
