"""Rendering Kubernetes manifests and finding one's way in them."""

from __future__ import annotations

import functools
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from convserve import config

ROOT = Path(__file__).parents[2]
KUBERNETES = ROOT / "deploy/kubernetes"
DOCKERFILE = ROOT / "Dockerfile"
_OLDEST_KUSTOMIZE = (5, 0)

Document = dict[str, Any]
Manifest = list[Document]

OVERLAYS = ["cpu", "gpu", "gpu-mig"]
SERVERS = [
    *((f"kubernetes/overlays/{name}",) for name in OVERLAYS),
    *(("kubernetes/overlays/cpu", component) for component in ("bundled-models", "hpa", "keda", "tls")),
    ("kubernetes/overlays/gpu", "keda", "tls"),
    ("kubernetes/overlays/gpu-mig", "hpa"),
]
EVERYTHING = [*SERVERS, ("kubernetes/jobs/train",), ("kserve",)]


def combined_name(parts: object) -> str:
    return "+".join(Path(part).name for part in parts) if isinstance(parts, tuple) else ""


servers = pytest.mark.parametrize("parts", SERVERS, ids=combined_name)
everything = pytest.mark.parametrize("parts", EVERYTHING, ids=combined_name)


class Rendered:
    """Renders kustomizations, each once."""

    def __init__(self, folder: Path) -> None:
        """Combinations that lie in no file are written into `folder`."""
        self._folder = folder

    @functools.cache  # noqa: B019  # as long-lived as the session
    def __call__(self, directory: str, *components: str) -> Manifest:
        """What `kubectl kustomize` makes of a directory below deploy/, with components added to it."""
        command = _kustomize()
        if command is None:
            pytest.skip(f"NOT CHECKED: {directory} was not rendered; needs kubectl 1.27 or newer, or kustomize 5")
        path = ROOT / "deploy" / directory
        if components:
            path = self._combine(path, components)
        ended = subprocess.run([*command, str(path)], capture_output=True, text=True, check=False, timeout=60)
        assert ended.returncode == 0, ended.stderr
        return [document for document in yaml.safe_load_all(ended.stdout) if document]

    def _combine(self, base: Path, components: tuple[str, ...]) -> Path:
        path = self._folder / "-".join([base.name, *components])
        path.mkdir()
        up = "../" * (len(path.parts) - 1)
        kustomization = {
            "apiVersion": "kustomize.config.k8s.io/v1beta1",
            "kind": "Kustomization",
            "namespace": "convserve",
            "resources": [up + str(base)[1:]],
            "components": [up + str(KUBERNETES / "components" / name)[1:] for name in components],
        }
        (path / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
        return path


@functools.cache
def _kustomize() -> tuple[str, ...] | None:
    """The command that renders a directory; None without one that is new enough."""
    if shutil.which("kustomize"):
        return ("kustomize", "build")
    if not shutil.which("kubectl"):
        return None
    ended = subprocess.run(
        ["kubectl", "version", "--client", "--output=json"], capture_output=True, text=True, check=False, timeout=60
    )
    version = json.loads(ended.stdout or "{}").get("kustomizeVersion", "v0.0")
    numbers = tuple(int(part) for part in version.lstrip("v").split(".")[:2])
    return ("kubectl", "kustomize") if numbers >= _OLDEST_KUSTOMIZE else None


def of_kind(manifest: Manifest, kind: str) -> list[Document]:
    """All objects of a kind."""
    return [document for document in manifest if document["kind"] == kind]


def one(manifest: Manifest, kind: str) -> Document:
    """The only object of a kind."""
    (found,) = of_kind(manifest, kind)
    return found


def pod_templates(manifest: Manifest) -> list[Document]:
    """The pods that objects make: metadata and spec."""
    return [document["spec"]["template"] for kind in ("Deployment", "Job") for document in of_kind(manifest, kind)]


def server(manifest: Manifest) -> Document:
    """The server's container."""
    (container,) = one(manifest, "Deployment")["spec"]["template"]["spec"]["containers"]
    return dict(container)


def selects(selector: dict[str, str], template: Document) -> bool:
    """Whether equal labels select a pod."""
    labels = template["metadata"]["labels"]
    return all(labels.get(key) == value for key, value in selector.items())


def image_user() -> int:
    """The user that the Dockerfile names."""
    (user,) = re.findall(r"^USER (\d+):\d+$", DOCKERFILE.read_text(), re.MULTILINE)
    return int(user)


def image_variables() -> dict[str, str]:
    """The settings that every server's image brings."""
    return dict(re.findall(r"(CONVSERVE_(?:HOST|MODEL_REPOSITORY))=(\S+)", DOCKERFILE.read_text()))


def settings_of(manifest: Manifest, folder: Path) -> config.Settings:
    """What the server makes of its image's and container's variables and its ConfigMap; `folder` is for the file."""
    ((key, content),) = one(manifest, "ConfigMap")["data"].items()
    variables = {variable["name"]: variable["value"] for variable in server(manifest)["env"]}
    assert variables["CONVSERVE_CONFIG"] == f"/etc/convserve/{key}"
    file = folder / key
    file.write_text(content)
    return config.load({}, {**image_variables(), **variables, "CONVSERVE_CONFIG": str(file)})
