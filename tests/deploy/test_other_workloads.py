"""The training Job and the runtime for KServe."""

from __future__ import annotations

from convserve import config
from convtrain.cli.parser import make_parser
from convtrain.presets import PRESETS
from support.manifests import Rendered, image_variables, one, pod_templates


def test_the_training_job_is_understood(rendered: Rendered) -> None:
    """Its arguments are those of `convtrain run`, and it publishes where the volume is mounted."""
    (template,) = pod_templates(rendered("kubernetes/jobs/train"))
    (container,) = template["spec"]["containers"]
    args = make_parser().parse_args(container["args"])
    assert args.preset in PRESETS
    mounts = {mount["mountPath"] for mount in container["volumeMounts"]}
    assert str(args.model_repository) in mounts
    assert template["spec"]["restartPolicy"] == "Never"


def test_kserve_finds_what_it_looks_for(rendered: Rendered) -> None:
    """The container's and port's names, the protocol, the annotations, and a sample that uses this runtime."""
    manifest = rendered("kserve")
    runtime = one(manifest, "ServingRuntime")
    spec = runtime["spec"]
    (container,) = spec["containers"]
    assert container["name"] == "kserve-container"
    assert spec["protocolVersions"] == ["grpc-v2"]
    defaults = config.Settings()
    assert [(port["name"], port["containerPort"]) for port in container["ports"]] == [("h2c", defaults.port)]
    assert spec["annotations"] == {
        "prometheus.kserve.io/port": str(defaults.http_port),
        "prometheus.kserve.io/path": "/metrics",
    }
    settings = config.load({}, {**image_variables(), **{each["name"]: each["value"] for each in container["env"]}})
    assert str(settings.model_repository) == "/mnt/models"
    model = one(manifest, "InferenceService")["spec"]["predictor"]["model"]
    assert model["runtime"] == runtime["metadata"]["name"]
    assert model["protocolVersion"] in spec["protocolVersions"]
    assert model["modelFormat"]["name"] in [each["name"] for each in spec["supportedModelFormats"]]
