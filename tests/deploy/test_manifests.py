"""The Kubernetes manifests as rendered: valid for several versions, hardened, complete."""

from __future__ import annotations

import functools
import json
import re

import kubernetes_validate
import pytest

import convserve
from support.manifests import (
    DOCKERFILE,
    OVERLAYS,
    ROOT,
    Rendered,
    everything,
    image_user,
    of_kind,
    one,
    pod_templates,
    server,
    servers,
)

VERSIONS = ["1.30", "1.33", "1.37"]
"""preStop.sleep, which the Deployment uses, is on by default from 1.30."""
NOT_KUBERNETES = {"PodMonitor", "PrometheusRule", "ScaledObject", "ServingRuntime", "InferenceService"}
"""Kinds that operators bring; kubernetes-validate has no schema of them."""


@functools.cache
def validate(document: str, version: str) -> None:
    """Check an object, given as JSON; most are the same in all overlays.

    Raises:
        ValidationError: it does not fit its schema.
        SchemaNotFoundError: Kubernetes has no such kind.
    """
    kubernetes_validate.validate(json.loads(document), version, strict=True)


@pytest.mark.parametrize("version", VERSIONS)
@everything
def test_every_object_fits_its_schema(rendered: Rendered, parts: tuple[str, ...], version: str) -> None:
    """Strictly: no unknown field. Objects without a schema are of the kinds that operators bring."""
    without = set()
    for document in rendered(*parts):
        try:
            validate(json.dumps(document, sort_keys=True), version)
        except kubernetes_validate.SchemaNotFoundError:
            without.add(document["kind"])
    assert without <= NOT_KUBERNETES


def test_a_wrong_object_does_not_fit(rendered: Rendered) -> None:
    """The check above can fail."""
    (deployment,) = of_kind(rendered("kubernetes/overlays/cpu"), "Deployment")
    wrong = {**deployment, "spec": {**deployment["spec"], "replica": 2}}
    with pytest.raises(kubernetes_validate.ValidationError, match="replica"):
        validate(json.dumps(wrong), VERSIONS[-1])


@everything
def test_every_pod_is_hardened(rendered: Rendered, parts: tuple[str, ...]) -> None:
    """What the pod security standard `restricted` wants, and more: a read-only root, no token, limits."""
    for template in pod_templates(rendered(*parts)):
        pod = template["spec"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] == image_user()
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["automountServiceAccountToken"] is False
        assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys()
        assert all(not {"hostPath"} & volume.keys() for volume in pod["volumes"])
        for container in pod["containers"]:
            context = container["securityContext"]
            assert context["allowPrivilegeEscalation"] is False
            assert context["readOnlyRootFilesystem"] is True
            assert context["capabilities"] == {"drop": ["ALL"]}
            assert {"cpu", "memory"} <= container["resources"]["limits"].keys()
            assert {"cpu", "memory"} <= container["resources"]["requests"].keys()
            assert all("hostPort" not in port for port in container.get("ports", []))


@everything
def test_volumes_exist(rendered: Rendered, parts: tuple[str, ...]) -> None:
    """Every mount names a volume, every volume is mounted, every ConfigMap and claim exists; /tmp can be written."""
    manifest = rendered(*parts)
    names = {kind: {one["metadata"]["name"] for one in of_kind(manifest, kind)} for kind in ("ConfigMap",)}
    for template in pod_templates(manifest):
        pod = template["spec"]
        mounts = {mount["name"]: mount for container in pod["containers"] for mount in container["volumeMounts"]}
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        assert mounts.keys() == volumes.keys()
        assert "emptyDir" in volumes["tmp"]
        assert mounts["tmp"]["mountPath"] == "/tmp"
        for volume in volumes.values():
            if "configMap" in volume:
                assert volume["configMap"]["name"] in names["ConfigMap"]


@servers
def test_models_are_mounted_read_only(rendered: Rendered, parts: tuple[str, ...]) -> None:
    """At /mnt/models, where the image looks; the claim is the one that the training Job writes to."""
    manifest = rendered(*parts)
    assert "CONVSERVE_MODEL_REPOSITORY=/mnt/models" in DOCKERFILE.read_text()
    mounts = {mount["mountPath"]: mount for mount in server(manifest)["volumeMounts"]}
    if "bundled-models" in parts:
        assert "/mnt/models" not in mounts
        assert not of_kind(manifest, "PersistentVolumeClaim")
        return
    assert mounts["/mnt/models"]["readOnly"] is True
    claim = one(manifest, "PersistentVolumeClaim")["metadata"]["name"]
    pod = one(manifest, "Deployment")["spec"]["template"]["spec"]
    assert {"claimName": claim, "readOnly": True} in [volume.get("persistentVolumeClaim") for volume in pod["volumes"]]
    (training,) = pod_templates(rendered("kubernetes/jobs/train"))
    assert {"claimName": claim} in [volume.get("persistentVolumeClaim") for volume in training["spec"]["volumes"]]


def test_everything_lies_in_one_namespace(rendered: Rendered) -> None:
    """Which is one that refuses pods that are not hardened."""
    for overlay in OVERLAYS:
        manifest = rendered(f"kubernetes/overlays/{overlay}")
        namespace = one(manifest, "Namespace")["metadata"]
        assert namespace["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
        others = {each["metadata"]["namespace"] for each in manifest if each["kind"] != "Namespace"}
        assert others == {namespace["name"]}


def test_images_are_those_of_the_dockerfile(rendered: Rendered) -> None:
    """Each overlay's tag names a target of the Dockerfile, and this version."""
    targets = set(re.findall(r"^FROM \S+ AS (\w+)$", DOCKERFILE.read_text(), re.MULTILINE))
    (version,) = re.findall(r"^ARG VERSION=(\S+)$", DOCKERFILE.read_text(), re.MULTILINE)
    wanted = {"overlays/cpu": "cpu", "overlays/gpu": "gpu", "overlays/gpu-mig": "gpu", "jobs/train": "train"}
    for path, target in wanted.items():
        (template,) = pod_templates(rendered(f"kubernetes/{path}"))
        assert target in targets
        assert template["spec"]["containers"][0]["image"] == f"convserve:{version}-{target}"


def test_every_image_that_is_named_has_this_version() -> None:
    """Also where no overlay is rendered: KServe, compose, and the page that tells how to build them."""
    named = {
        path: set(re.findall(r"(?:convserve:|newTag: )(\d+\.\d+\.\d+)-", path.read_text()))
        for path in (*(ROOT / "deploy").rglob("*.yaml"), ROOT / "docs/deploying.md")
    }
    assert {path.parent.name for path, versions in named.items() if versions} >= {"kserve", "compose", "docs"}
    assert set().union(*named.values()) == {convserve.__version__}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_gpus_are_asked_for_where_they_are_used(rendered: Rendered, overlay: str) -> None:
    """A whole number of one kind of device as a limit, a toleration, a node selector, and no surge."""
    deployment = one(rendered(f"kubernetes/overlays/{overlay}"), "Deployment")
    pod = deployment["spec"]["template"]["spec"]
    resources = pod["containers"][0]["resources"]
    devices = {key: value for key, value in resources["limits"].items() if "/" in key}
    update = deployment["spec"]["strategy"]["rollingUpdate"]
    if overlay == "cpu":
        assert devices == {}
        assert update == {"maxSurge": 1, "maxUnavailable": 0}
        return
    ((resource, count),) = devices.items()
    assert count == 1
    assert resource.startswith("nvidia.com/mig-" if overlay == "gpu-mig" else "nvidia.com/gpu")
    assert not any("/" in key for key in resources["requests"])  # requests of devices follow limits
    assert update == {"maxSurge": 0, "maxUnavailable": 1}
    assert {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"} in pod["tolerations"]
    assert pod["nodeSelector"]["nvidia.com/gpu.present"] == "true"
    required = pod["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    keys = {expression["key"] for term in required for expression in term["matchExpressions"]}
    assert "nvidia.com/cuda.driver.major" in keys
    assert (f"{resource}.count" in keys) == (overlay == "gpu-mig")
