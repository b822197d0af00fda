"""The repository extension: which versions there are, loading and unloading them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from convserve.errors import InvalidRequestError, PermissionDeniedError, UnsupportedError
from convserve.lifecycle import VersionState
from convserve.open_inference.v2 import management_pb2 as pb
from convserve.registry import Registry
from convserve.server.call import Call
from convserve.server.models import Admin

_STATES = {
    VersionState.LOADING: "LOADING",
    VersionState.WARMING: "LOADING",
    VersionState.AVAILABLE: "READY",
    VersionState.DRAINING: "UNLOADING",
    VersionState.UNLOADED: "UNAVAILABLE",
    VersionState.FAILED: "UNAVAILABLE",
}


class Repository:
    """Answers RepositoryIndex, RepositoryModelLoad and RepositoryModelUnload."""

    def __init__(self, registry: Registry, admin: Admin | None) -> None:
        """Tell of the models in `registry`; `admin` changes them, None when that is not enabled."""
        self._registry = registry
        self._admin = admin

    @property
    def changeable(self) -> bool:
        """Whether models can be loaded and unloaded."""
        return self._admin is not None

    def index(self, message: pb.RepositoryIndexRequest, call: Call) -> pb.RepositoryIndexResponse:  # noqa: ARG002
        """List every version and its state."""
        if message.repository_name:
            raise UnsupportedError("repository_name is set; there is one repository, and it has no name")
        return pb.RepositoryIndexResponse(models=self._entries(ready=message.ready))

    def load(self, message: pb.RepositoryModelLoadRequest, call: Call) -> pb.RepositoryModelLoadResponse:
        """Prove a version and make it available."""
        admin, name = self._changeable(message.repository_name, message.model_name, call)
        _refuse_others(message.parameters, {"version"})
        admin.load(name, _version(message.parameters))
        return pb.RepositoryModelLoadResponse(model_name=name, is_loaded=True)

    def unload(self, message: pb.RepositoryModelUnloadRequest, call: Call) -> pb.RepositoryModelUnloadResponse:
        """Finish and free a version, or all of a model."""
        admin, name = self._changeable(message.repository_name, message.model_name, call)
        _refuse_others(message.parameters, {"version", "unload_dependents"})
        admin.unload(name, _version(message.parameters))
        return pb.RepositoryModelUnloadResponse(model_name=name, is_unloaded=True)

    def _entries(self, *, ready: bool) -> Iterator[pb.RepositoryIndexResponse.ModelIndex]:
        for name, versions in self._registry.models().items():
            for number, status in sorted(versions.items()):
                state = _STATES[status.state]
                if state == "READY" or not ready:
                    yield pb.RepositoryIndexResponse.ModelIndex(
                        name=name, version=str(number), state=state, reason=status.reason
                    )

    def _changeable(self, repository_name: str, model_name: str, call: Call) -> tuple[Admin, str]:
        """Who carries the change out, and the model's name: KServe's clients send it in the first field.

        Raises:
            PermissionDeniedError: admin methods are not enabled.
            UnsupportedError: a repository is named.
            InvalidRequestError: no model is named.
        """
        if self._admin is None:
            raise PermissionDeniedError(
                "admin methods are not answered here; the settings are admin_port and admin_methods"
            )
        if repository_name and model_name:
            raise UnsupportedError("repository_name is set; there is one repository, and it has no name")
        name = model_name or repository_name
        if not name:
            raise InvalidRequestError.of("model_name", "is empty; name the model")
        if self._registry.has_model(name):
            call.model = name
        return self._admin, name


def _refuse_others(parameters: Mapping[str, pb.ModelRepositoryParameter], known: set[str]) -> None:
    for name in parameters:
        if name not in known:
            raise UnsupportedError(
                f"parameters[{name!r}] is not offered; versions are served as they were published, and only `version`"
                " chooses one"
            )


def _version(parameters: Mapping[str, pb.ModelRepositoryParameter]) -> int:
    """The version's number; 0 when it is missing."""
    if "version" not in parameters:
        return 0
    value = parameters["version"]
    if value.WhichOneof("parameter_choice") != "int64_param" or value.int64_param < 1:
        raise InvalidRequestError.of("parameters['version']", "must be an int64_param of 1 or more")
    return value.int64_param
