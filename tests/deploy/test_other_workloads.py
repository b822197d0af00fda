"""The training Job and the runtime for KServe."""

from __future__ import annotations

import json
import subprocess

import pytest

from convserve import config
from convtrain.cli.parser import make_parser
from convtrain.presets import PRESETS
from support.manifests import ROOT, Manifest, Rendered, image_variables, one, pod_templates


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
    """Names of container and port, protocol, annotations, time to drain, and a sample that uses this runtime."""
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
    predictor = one(manifest, "InferenceService")["spec"]["predictor"]
    model = predictor["model"]
    assert model["runtime"] == runtime["metadata"]["name"]
    assert model["protocolVersion"] in spec["protocolVersions"]
    assert model["modelFormat"]["name"] in [each["name"] for each in spec["supportedModelFormats"]]
    assert settings.drain.delay > 0  # there is no preStop
    assert predictor["terminationGracePeriodSeconds"] > settings.drain.delay + 2 + settings.drain.timeout


def test_kserve_knows_every_field(rendered: Rendered) -> None:
    """The classes of KServe's own package have each field of runtime and sample, and lack one that is made up."""
    python = ROOT / ".venv-contract-kserve/bin/python"
    if not python.exists():
        pytest.skip("NOT CHECKED: deploy/kserve was not compared with KServe's classes; KSERVE_CLIENT=1 installs them")

    def unknown(manifest: Manifest) -> list[str]:
        command = [str(python), "-P", str(ROOT / "tests/contract/clients/kserve_fields.py")]
        ended = subprocess.run(
            command, input=json.dumps(manifest), capture_output=True, text=True, check=True, timeout=100
        )
        found: list[str] = json.loads(ended.stdout)
        return found

    manifest = rendered("kserve")
    assert unknown(manifest) == []
    wrong = json.loads(json.dumps(manifest))
    one(wrong, "ServingRuntime")["spec"]["containers"][0]["prots"] = []
    one(wrong, "InferenceService")["spec"]["predictor"]["model"]["storageURI"] = ""
    assert sorted(unknown(wrong)) == [
        "InferenceService.spec.predictor.model.storageURI",
        "ServingRuntime.spec.containers[0].prots",
    ]
