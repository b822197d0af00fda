"""The life of versions in a running server: swaps, failures, aliases, and repositories that misbehave."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from convserve import manifest as m
from convserve.v1 import classification_pb2 as pb
from convserve.v1 import classification_pb2_grpc as rpc
from convserve.v1 import model_pb2, model_pb2_grpc
from support import versions
from support.server import ServerProcess, run_to_end, serving
from support.waiting import until

FAST = ("--repository-poll-interval", "0.05")


class Caller:
    """Calls a server."""

    def __init__(self, server: ServerProcess) -> None:
        self.channel = grpc.insecure_channel(server.target)
        self._classify = rpc.ClassificationServiceStub(self.channel).Classify
        self.models = model_pb2_grpc.ModelServiceStub(self.channel)

    def version(self, request_id: str = "", **choice: object) -> int:
        """The version that answers."""
        images = versions.random_images(1)
        request = pb.ClassifyRequest(
            model="stripes",
            packed=pb.PackedImages(data=images.tobytes(), shape=images.shape),
            **choice,  # type: ignore[arg-type]
        )
        metadata = (("x-request-id", request_id),) if request_id else None
        return self._classify(request, metadata=metadata, timeout=20).model_version

    def states(self) -> dict[int, tuple[str, str]]:
        """State and reason by version."""
        model = self.models.GetModel(model_pb2.GetModelRequest(name="stripes")).model
        names = model_pb2.VersionState.Name
        return {
            one.version: (names(one.state).removeprefix("VERSION_STATE_").lower(), one.reason) for one in model.versions
        }

    def state(self, version: int) -> str:
        return self.states().get(version, ("", ""))[0]


@pytest.fixture
def server(repository: Path, tmp_path: Path) -> Iterator[ServerProcess]:
    with serving(repository, tmp_path, *FAST, "--admin-methods", "true") as running:
        yield running


@pytest.fixture
def caller(server: ServerProcess) -> Iterator[Caller]:
    made = Caller(server)
    yield made
    made.channel.close()


def test_a_new_version_takes_over_without_a_failed_call(caller: Caller, repository: Path) -> None:
    """Callers see version 1, then version 2, and never an error."""
    seen: list[int] = []
    failures: list[Exception] = []
    stop = threading.Event()

    def call() -> None:
        while not stop.is_set():
            try:
                seen.append(caller.version())
            except grpc.RpcError as error:
                failures.append(error)

    threads = [threading.Thread(target=call) for _ in range(4)]
    for thread in threads:
        thread.start()
    until(lambda: len(seen) > 20)
    versions.write_version(repository, version=2, seed=1)
    until(lambda: caller.state(1) == "unloaded")
    stop.set()
    for thread in threads:
        thread.join()
    assert failures == []
    assert {1, 2} == set(seen)
    assert caller.version() == 2
    assert caller.states() == {1: ("unloaded", ""), 2: ("available", "")}


def test_a_version_that_fails_never_serves(caller: Caller, server: ServerProcess, repository: Path) -> None:
    """The old one stays; the reason is in API, log and metric; repaired content is tried again."""
    staged = versions.write_version(repository.parent / "elsewhere", version=2, seed=1)
    content = damage(staged)
    shutil.move(staged, repository / "stripes/2")
    until(lambda: caller.state(2) == "failed")
    assert caller.version() == 1
    assert "model.onnx: SHA-256" in caller.states()[2][1]
    assert any("model.onnx: SHA-256" in event.get("reason", "") for event in server.log_events())
    assert server.metric("convserve_version_load_failures_total", model="stripes") == 1
    with pytest.raises(grpc.RpcError) as refused:
        caller.version(version=2)
    assert refused.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    (repository / "stripes/2" / m.ONNX_FILE).write_bytes(content)
    (repository / "stripes/2" / m.MANIFEST_FILE).touch()
    until(lambda: caller.state(2) == "available")
    until(lambda: caller.version() == 2)


def damage(directory: Path) -> bytes:
    """Alter the last byte of a version's model. Returns what it held before."""
    content = (directory / m.ONNX_FILE).read_bytes()
    (directory / m.ONNX_FILE).write_bytes(content[:-1] + b"?")
    return content


def test_a_start_goes_back_to_the_newest_version_that_can_be_proved(repository: Path, tmp_path: Path) -> None:
    """As a running server would have kept it: ready, the failures told, and the newest tried again when it changes."""
    damage(versions.write_version(repository, version=2, seed=1))
    newest = versions.write_version(repository, version=3, seed=2)
    content = damage(newest)
    with serving(repository, tmp_path, *FAST) as server:
        caller = Caller(server)
        assert server.ready["models"] == ["stripes"]
        assert server.http("/readyz")[0] == 200
        assert caller.version() == 1
        states = caller.states()
        assert {number: state for number, (state, _) in states.items()} == {1: "available", 2: "failed", 3: "failed"}
        assert "model.onnx: SHA-256" in states[3][1]
        assert server.metric("convserve_version_load_failures_total", model="stripes") == 2
        assert server.metric("convserve_versions", state="failed") == 2
        assert server.metric("convserve_default_version", model="stripes") == 1
        (told,) = (event for event in server.log_events() if event["event"] == "another version answers")
        assert (told["version"], told["failed"]) == (1, [2, 3])
        (newest / m.ONNX_FILE).write_bytes(content)
        (newest / m.MANIFEST_FILE).touch()
        until(lambda: caller.state(3) == "available" and caller.state(1) == "unloaded")
        assert caller.version() == 3
        shutil.rmtree(repository / "stripes/2")
        until(lambda: server.metric("convserve_versions", state="failed") == 0)
        caller.channel.close()


def test_a_start_does_not_replace_a_version_that_is_named(repository: Path, tmp_path: Path) -> None:
    """What an alias stands for must be proved, and so must one version at least; or the server ends with the reason."""
    damage(versions.write_version(repository, version=2, seed=1))
    settings = tmp_path / "settings.toml"
    settings.write_text("[models.stripes.aliases]\nstable = 2\n")
    ended = run_to_end(repository, "--config", str(settings))
    assert ended.returncode == 1
    assert "stripes/2/model.onnx: SHA-256" in ended.stderr
    damage(repository / "stripes/1")
    ended = run_to_end(repository)
    assert ended.returncode == 1
    assert "stripes/1/model.onnx: SHA-256" in ended.stderr


def test_a_half_copied_version_waits_for_its_manifest(caller: Caller, repository: Path) -> None:
    """Without the manifest, which is written last, there is no version."""
    staged = versions.write_version(repository.parent / "elsewhere", version=2, seed=1)
    target = repository / "stripes/2"
    target.mkdir()
    shutil.copy(staged / m.ONNX_FILE, target)
    threading.Event().wait(0.3)  # several looks at the repository
    assert set(caller.states()) == {1}
    shutil.copy(staged / m.GOLDEN_FILE, target)
    shutil.copy(staged / m.MANIFEST_FILE, target)
    until(lambda: caller.state(2) == "available")


def test_a_copied_manifest_before_its_files_fails_and_recovers(caller: Caller, repository: Path) -> None:
    """A tool that copies in alphabetical order is survived; touching the manifest tries again."""
    staged = versions.write_version(repository.parent / "elsewhere", version=2, seed=1)
    target = repository / "stripes/2"
    target.mkdir()
    shutil.copy(staged / m.MANIFEST_FILE, target)
    until(lambda: caller.state(2) == "failed")
    assert caller.version() == 1
    shutil.copy(staged / m.ONNX_FILE, target)
    shutil.copy(staged / m.GOLDEN_FILE, target)
    (target / m.MANIFEST_FILE).touch()
    until(lambda: caller.state(2) == "available")


def test_a_deleted_newest_version_rolls_back(caller: Caller, repository: Path) -> None:
    """The older one is loaded before the deleted one stops."""
    versions.write_version(repository, version=2, seed=1)
    until(lambda: caller.state(2) == "available" and caller.state(1) == "unloaded")
    shutil.rmtree(repository / "stripes/2")
    until(lambda: caller.state(1) == "available" and caller.state(2) == "unloaded")
    assert caller.version() == 1


def test_a_repository_that_flaps_stops_nothing(caller: Caller, repository: Path) -> None:
    """A mount that comes and goes leaves what is loaded."""
    away = repository.with_name("away")
    for _ in range(5):
        repository.rename(away)
        threading.Event().wait(0.1)
        assert caller.version() == 1
        away.rename(repository)
        threading.Event().wait(0.1)
    assert caller.states() == {1: ("available", "")}


def test_a_symlink_swap_is_a_new_content(caller: Caller, server: ServerProcess, repository: Path) -> None:
    """The version keeps its number and answers with the new content once that is proved."""
    contents = repository / ".contents"  # links may lead about the repository, not out of it
    versions.write_version(contents / "b", version=1, seed=1)
    link = repository / "stripes/next"
    shutil.move(repository / "stripes/1", contents / "a")
    (repository / "stripes/1").symlink_to(contents / "a")
    link.symlink_to(contents / "b/stripes/1")
    before = caller.models.GetModel(model_pb2.GetModelRequest(name="stripes")).model.versions[0].digest
    link.rename(repository / "stripes/1")

    def digest() -> str:
        return caller.models.GetModel(model_pb2.GetModelRequest(name="stripes")).model.versions[0].digest

    until(lambda: digest() != before)
    assert caller.states() == {1: ("available", "")}
    assert server.process.poll() is None


def test_aliases_and_admin_methods(caller: Caller, repository: Path) -> None:
    """Load, point, answer by alias, refuse to unload what an alias needs, unload, and stay unloaded."""
    versions.write_version(repository, version=2, seed=1)
    until(lambda: caller.state(2) == "available" and caller.state(1) == "unloaded")
    loaded = caller.models.LoadModel(model_pb2.LoadModelRequest(name="stripes", version=1))
    assert loaded.version.state == model_pb2.VERSION_STATE_AVAILABLE
    assert caller.version() == 2
    set_alias = caller.models.SetAlias
    assert set_alias(model_pb2.SetAliasRequest(name="stripes", alias="stable", version=1)).aliases == {"stable": 1}
    assert caller.version() == 1
    assert caller.version(alias="stable") == 1
    assert caller.version(version=2) == 2
    with pytest.raises(grpc.RpcError, match="move the alias first"):
        caller.models.UnloadModel(model_pb2.UnloadModelRequest(name="stripes", version=1))
    with pytest.raises(grpc.RpcError, match="has no alias 'canary'"):
        caller.version(alias="canary")
    set_alias(model_pb2.SetAliasRequest(name="stripes", alias="stable", version=0))
    unloaded = caller.models.UnloadModel(model_pb2.UnloadModelRequest(name="stripes", version=2))
    assert list(unloaded.versions) == [2]
    threading.Event().wait(0.3)  # several looks at the repository do not bring it back
    assert caller.state(2) == "unloaded"
    assert caller.version() == 1


@pytest.mark.parametrize(
    ("method", "request_", "code"),
    [
        ("LoadModel", model_pb2.LoadModelRequest(name="stripes", version=9), "NOT_FOUND"),
        ("LoadModel", model_pb2.LoadModelRequest(name="../stripes"), "NOT_FOUND"),
        ("LoadModel", model_pb2.LoadModelRequest(), "INVALID_ARGUMENT"),
        ("UnloadModel", model_pb2.UnloadModelRequest(name="stripes", version=9), "FAILED_PRECONDITION"),
        ("UnloadModel", model_pb2.UnloadModelRequest(name="other"), "NOT_FOUND"),
        ("UnloadModel", model_pb2.UnloadModelRequest(name="stripes", version=-1), "INVALID_ARGUMENT"),
        ("SetAlias", model_pb2.SetAliasRequest(name="stripes", alias="1", version=1), "INVALID_ARGUMENT"),
        ("SetAlias", model_pb2.SetAliasRequest(name="stripes", alias="a", version=9), "NOT_FOUND"),
        ("SetAlias", model_pb2.SetAliasRequest(name="other", alias="a", version=1), "NOT_FOUND"),
    ],
)
def test_wrong_admin_requests(caller: Caller, method: str, request_: object, code: str) -> None:
    """Each is refused with its status, and nothing changes."""
    with pytest.raises(grpc.RpcError) as refused:
        getattr(caller.models, method)(request_)
    assert refused.value.code().name == code
    assert caller.version() == 1


def test_admin_methods_are_off_by_default(repository: Path, tmp_path: Path) -> None:
    """PERMISSION_DENIED names the setting."""
    with serving(repository, tmp_path) as server:
        caller = Caller(server)
        for method, request in (
            ("LoadModel", model_pb2.LoadModelRequest(name="stripes")),
            ("UnloadModel", model_pb2.UnloadModelRequest(name="stripes")),
            ("SetAlias", model_pb2.SetAliasRequest(name="stripes", alias="a", version=1)),
        ):
            with pytest.raises(grpc.RpcError, match="admin_methods") as refused:
                getattr(caller.models, method)(request)
            assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED
        caller.channel.close()


def test_split_and_shadow(repository: Path, tmp_path: Path) -> None:
    """The canary gets its share by request id, and the shadow is compared."""
    versions.write_version(repository, version=2, seed=1)
    settings = tmp_path / "settings.toml"
    settings.write_text(
        "[models.stripes]\nshadow = 'canary'\n[models.stripes.aliases]\nstable = 1\ncanary = 2\n"
        "[models.stripes.split]\ncanary = 30\n"
    )
    with serving(repository, tmp_path, "--config", str(settings)) as server:
        caller = Caller(server)
        chosen = {f"id-{n}": caller.version(f"id-{n}") for n in range(200)}
        assert 30 < list(chosen.values()).count(2) < 90
        assert {name: caller.version(name) for name in list(chosen)[:20]} == dict(list(chosen.items())[:20])
        caller.channel.close()

        def compared() -> float:
            return server.metric("convserve_shadow_rows_total", version="1", shadow_version="2")

        answered_by_stable = list(chosen.values()).count(1) + list(chosen.values())[:20].count(1)
        until(lambda: compared() == answered_by_stable)
