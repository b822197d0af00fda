"""Nothing outside the repository is read, whatever a caller or a version says; nothing unproved is served."""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import msgspec
import numpy as np
import onnx
import pytest
from prometheus_client import CollectorRegistry

from convserve import manifest as m
from convserve.config import ModelSettings, Settings
from convserve.errors import ArtifactError, VersionNotAvailableError
from convserve.lifecycle import VersionState
from convserve.manager import Manager
from convserve.metrics import Metrics
from convserve.open_inference.v2 import management_pb2
from convserve.registry import Registry
from convserve.signing import Signer
from convserve.v1 import model_pb2, model_pb2_grpc
from support import foreign, versions
from support import server as servers
from support.keys import SigningKey

HOSTILE_NAMES = [
    "..",
    ".",
    "/",
    "../outside",
    "stripes/../../outside",
    "stripes/1",
    "./stripes",
    "stripes/",
    "/etc/passwd",
    "%2e%2e%2foutside",
    "..\\outside",
    "stripes\x00",
    "stripes\n",
    ".hidden",
    "~root",
    "outside",
    "ｓtripes",
    "a" * 100_000,
    "{0.__class__}",
    "$(id)",
]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[servers.ServerProcess]:
    """A server with admin methods; a complete model lies beside its repository, and a hidden one in it."""
    root = tmp_path_factory.mktemp("untrusted")
    versions.write_version(root / "repository")
    versions.write_version(root, "outside")
    versions.write_version(root / "repository", ".hidden")
    with servers.serving(root / "repository", root, "--admin-methods", "true") as server:
        yield server


@pytest.mark.parametrize("name", HOSTILE_NAMES, ids=lambda name: repr(name[:30]))
def test_a_name_is_looked_up_and_never_becomes_a_path(running: servers.ServerProcess, name: str) -> None:
    """In every method of every dialect, what names no model is NOT_FOUND or wrong, and changes nothing."""
    alias = model_pb2.SetAliasRequest(name=name, alias="stable", version=1)
    with grpc.insecure_channel(running.target) as channel:
        stub = model_pb2_grpc.ModelServiceStub(channel)
        for call in (
            lambda: stub.GetModel(model_pb2.GetModelRequest(name=name)),
            lambda: stub.LoadModel(model_pb2.LoadModelRequest(name=name)),
            lambda: stub.LoadModel(model_pb2.LoadModelRequest(name=name, version=1)),
            lambda: stub.UnloadModel(model_pb2.UnloadModelRequest(name=name)),
            lambda: stub.SetAlias(alias),
            lambda: foreign.oip(channel, "ModelMetadata", name=name),
            lambda: foreign.oip(channel, "ModelConfig", name=name),
            lambda: foreign.oip(channel, "RepositoryModelLoad", model_name=name),
            lambda: foreign.oip(channel, "RepositoryModelUnload", model_name=name),
            lambda: foreign.infer(channel, foreign.infer_request(versions.random_images(1), name)),
        ):
            with pytest.raises(grpc.RpcError) as caught:
                call()
            assert caught.value.code() in (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.INVALID_ARGUMENT)
        listed = stub.ListModels(model_pb2.ListModelsRequest()).models
    assert [model.name for model in listed] == ["stripes"]
    assert [version.version for version in listed[0].versions] == [1]


@pytest.mark.parametrize("version", ["..", "../1", "1/../../../outside/1", "/1", "+1", "1.0", "１", "-1", "\x00"])
def test_a_version_is_a_number_or_an_alias(running: servers.ServerProcess, version: str) -> None:
    """As text, where a dialect has it so."""
    with grpc.insecure_channel(running.target) as channel:
        request = management_pb2.ModelMetadataRequest(name="stripes", version=version)
        with pytest.raises(grpc.RpcError) as caught:
            foreign.call(channel, f"{foreign.OIP}/ModelMetadata", request, management_pb2.ModelMetadataResponse)
        assert caught.value.code() in (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.INVALID_ARGUMENT)


@pytest.mark.parametrize("alias", ["..", "../../x", "a/b", "", "a" * 1000, "\x00", "1"])
def test_an_alias_has_a_form(running: servers.ServerProcess, alias: str) -> None:
    """What does not have it is refused when it is set."""
    request = model_pb2.SetAliasRequest(name="stripes", alias=alias, version=1)
    with grpc.insecure_channel(running.target) as channel, pytest.raises(grpc.RpcError) as caught:
        model_pb2_grpc.ModelServiceStub(channel).SetAlias(request)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


@contextmanager
def managed(repository: Path, require_signature: str = "") -> Iterator[Manager]:
    """What loads versions in a server, all versions wanted."""
    settings = Settings(
        model_repository=repository,
        require_signature=require_signature,
        model=ModelSettings(version_policy="all"),
    )
    manager = Manager(settings, Registry(), Metrics(CollectorRegistry(), "test"), 1)
    try:
        yield manager
    finally:
        manager.close()


def failure(repository: Path, require_signature: str = "") -> str:
    """Why one version is not served while the other is."""
    with managed(repository, require_signature) as manager:
        (failed,) = manager.reconcile()
        return failed.reason


def test_a_model_that_breaks_off_when_it_runs_fails_alone(repository: Path) -> None:
    """Whatever the runtime raises: one that takes single images only fails at two, and another version answers."""
    version = versions.write_version(repository, version=2)
    model = onnx.load_from_string(versions.onnx_bytes())
    graph = model.graph
    graph.initializer.append(onnx.numpy_helper.from_array(np.ones(2, np.float32), "ones"))
    graph.node[1].output[0] = "scaled before"
    for node in (
        onnx.helper.make_node("Mul", ["scaled before", "one"], ["scaled"]),
        onnx.helper.make_node("Gather", ["ones", "rows"], ["one"]),  # the third of two, with two rows
        onnx.helper.make_node("Shape", ["image"], ["rows"], start=0, end=1),
    ):
        graph.node.insert(2 if node.op_type == "Mul" else 0, node)
    (version / m.ONNX_FILE).write_bytes(model.SerializeToString())
    versions.seal(version, version=2)
    with managed(repository) as manager:
        (failed,) = manager.reconcile()
        assert failed.state is VersionState.FAILED
        assert "out of data bounds" in failed.reason
        assert manager.load("stripes", 1) == 1
        with pytest.raises(VersionNotAvailableError, match="out of data bounds"):
            manager.load("stripes", 2)


def test_a_version_that_is_a_link_out_of_the_repository_is_not_served(repository: Path, tmp_path: Path) -> None:
    """However good it is; links within the repository are fine."""
    elsewhere = versions.write_version(tmp_path / "elsewhere", version=2)
    (repository / "stripes" / "2").symlink_to(elsewhere)
    assert "is a link that leads out of the repository" in failure(repository)


@pytest.mark.parametrize("name", [m.ONNX_FILE, m.GOLDEN_FILE, m.MANIFEST_FILE])
def test_a_file_that_is_a_link_out_of_the_repository_is_not_read(repository: Path, tmp_path: Path, name: str) -> None:
    """Although its digest would be right."""
    version = versions.write_version(repository, version=2)
    (version / name).rename(tmp_path / name)
    (version / name).symlink_to(tmp_path / name)
    reason = failure(repository)
    assert f"{name}: is a link that leads out of the repository" in reason


def test_links_within_the_repository_are_followed(repository: Path, tmp_path: Path) -> None:
    """As in a mounted Kubernetes volume, where every entry is one."""
    data = repository / "..data"
    (repository / "stripes").rename(data)
    (repository / "stripes").symlink_to("..data")
    with servers.serving(repository, tmp_path) as server:
        assert server.ready["models"] == ["stripes"]


def test_a_link_that_leads_nowhere_is_told(repository: Path, tmp_path: Path) -> None:
    """A circle of links neither hangs the server nor ends it."""
    version = versions.write_version(repository, version=2)
    (version / m.GOLDEN_FILE).unlink()
    (version / m.GOLDEN_FILE).symlink_to(m.GOLDEN_FILE)
    assert m.GOLDEN_FILE in failure(repository)


def test_a_pipe_is_not_waited_for(repository: Path, tmp_path: Path) -> None:
    """Something that is no file would hold the server forever."""
    version = versions.write_version(repository, version=2)
    (version / m.GOLDEN_FILE).unlink()
    os.mkfifo(version / m.GOLDEN_FILE)
    assert "is no file" in failure(repository)


@pytest.mark.parametrize(
    "change",
    [
        {"files": {"../../outside/1/model.onnx": "0" * 64}},
        {"files": {"/etc/passwd": "0" * 64}},
        {"files": {"a\0b": "0" * 64}},
        {"files": {"": "0" * 64}},
        {"variants": {"int8": "../1/model.onnx"}},
        {"model": "../stripes"},
        {"version": 0},
    ],
    ids=str,
)
def test_a_manifest_that_names_what_lies_elsewhere_is_refused(repository: Path, change: dict[str, object]) -> None:
    """Before anything it names is touched."""
    path = versions.write_version(repository, version=2) / m.MANIFEST_FILE
    content = msgspec.json.decode(path.read_bytes())
    for key, value in change.items():
        content[key] = {**content[key], **value} if isinstance(value, dict) else value
    path.write_bytes(msgspec.json.encode(content))
    with pytest.raises(ArtifactError, match="not a valid manifest"):
        m.read(path.parent)


class _Bomb:
    """Leaves a trace if it is ever unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.trace,)


def test_a_pickle_is_never_read(repository: Path, tmp_path: Path) -> None:
    """Golden vectors that hold objects are refused, and nothing in them has run, though every digest is right."""
    version = versions.write_version(repository, version=2)
    trace = tmp_path / "it-ran"
    bomb = np.empty(1, object)
    bomb[0] = _Bomb(trace)
    np.savez(version / m.GOLDEN_FILE, image=bomb, logits=bomb, probabilities=bomb)
    versions.seal(version, version=2)
    assert "cannot be read as golden vectors" in failure(repository)
    (version / m.GOLDEN_FILE).write_bytes(pickle.dumps(_Bomb(trace)))
    versions.seal(version, version=2)
    assert "cannot be read as golden vectors" in failure(repository)
    assert not trace.exists()


@pytest.mark.parametrize("absolute", [True, False])
def test_weights_that_lie_elsewhere_are_not_read(repository: Path, tmp_path: Path, absolute: bool) -> None:
    """An ONNX file may name another file for its weights. One outside is refused, though the digest is right."""
    version = versions.write_version(repository, version=2)
    model = onnx.load_from_string(versions.onnx_bytes())
    (weights,) = (tensor for tensor in model.graph.initializer if tensor.name == "weights")
    elsewhere = tmp_path / "weights.bin"
    elsewhere.write_bytes(weights.raw_data)
    weights.ClearField("raw_data")
    weights.data_location = onnx.TensorProto.EXTERNAL
    path = str(elsewhere) if absolute else os.path.relpath(elsewhere)
    weights.external_data.add(key="location", value=path)
    (version / m.ONNX_FILE).write_bytes(model.SerializeToString())
    versions.seal(version, version=2)
    assert "External data path" in failure(repository)


def test_only_signed_versions_are_served_where_the_policy_says_so(repository: Path, tmp_path: Path) -> None:
    """An unsigned version is listed with the reason; signed later, it is served without a restart."""
    key = SigningKey(tmp_path)
    signer = Signer(key.private_file)
    signer.sign(repository / "stripes" / "1")
    unsigned = versions.write_version(repository, version=2)
    with managed(repository, str(key.public_file)) as manager:
        (failed,) = manager.reconcile()
        assert "takes signed versions only" in failed.reason
        assert manager.reconcile() == []  # tried once, not at every look
        signer.sign(unsigned)
        assert manager.reconcile() == []
        assert manager.load("stripes", 2) == 2


def test_a_server_with_the_policy_serves_what_is_signed(repository: Path, tmp_path: Path) -> None:
    """And logs whose key it was."""
    key = SigningKey(tmp_path)
    Signer(key.private_file).sign(repository / "stripes" / "1")
    with servers.serving(repository, tmp_path, "--require-signature", str(key.public_file)) as server:
        assert server.ready["models"] == ["stripes"]
        assert "signature verified" in server.log


def test_a_manifest_that_was_changed_after_it_was_signed_is_not_served(repository: Path, tmp_path: Path) -> None:
    """Even if all digests in it are right again."""
    key = SigningKey(tmp_path)
    signer = Signer(key.private_file)
    signer.sign(repository / "stripes" / "1")
    version = versions.write_version(repository, version=2)
    signer.sign(version)
    (version / m.ONNX_FILE).write_bytes(versions.onnx_bytes(seed=7))
    versions.seal(version, version=2)
    reason = failure(repository, str(key.public_file))
    assert "by a key that this server trusts" in reason


def test_a_policy_without_keys_ends_the_start(repository: Path, tmp_path: Path) -> None:
    """A server that should ask for signatures never starts without knowing whose."""
    ended = servers.run_to_end(repository, "--require-signature", str(tmp_path / "nowhere.pem"))
    assert ended.returncode == 1
    assert "nowhere.pem: cannot be read" in ended.stderr
