"""podman, and the rendered manifest as a pod in it."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from scripts.containers import GRPC_PORT, HTTP_PORT, ROOT, Probe, run
from scripts.containers.docker import Docker

# Debian's podman needs these where there is no systemd and no bridge.
_PODMAN_SETTINGS = """\
[containers]
netns = "host"
default_ulimits = ["nofile=16384:16384", "nproc=4096:4096"]
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
"""


class Podman:
    """podman with settings of its own."""

    def __init__(self, folder: Path) -> None:
        """Keep the settings in `folder`."""
        settings = folder / "containers.conf"
        settings.write_text(_PODMAN_SETTINGS)
        self.environment = {**os.environ, "CONTAINERS_CONF": str(settings)}
        """Variables that podman needs."""
        self.version = self.run("version", "--format", "{{.Client.Version}}").strip()

    def run(self, *arguments: str, **options: Any) -> str:
        """Run podman with these arguments."""
        return run("podman", *arguments, env=self.environment, **options)

    def load(self, docker: Docker, image: str) -> None:
        """Take an image over from a Docker engine."""
        with tempfile.TemporaryDirectory() as folder:
            archive = f"{folder}/image.tar"
            run(docker.program, "save", "--output", archive, image)
            self.run("load", "--input", archive)

    @contextlib.contextmanager
    def playing(self, manifest: list[dict[str, Any]], image: str, folder: Path) -> Iterator[PodmanPod]:
        """Run the Deployment of a rendered manifest as one pod on the host's network, its model volume filled.

        podman applies the security context, volumes and settings; it ignores gRPC probes, preStop and GPU limits.
        """
        documents = [one for one in manifest if one["kind"] in ("ConfigMap", "Deployment")]
        for one in documents:
            one["metadata"].pop("namespace", None)
        (deployment,) = (one for one in documents if one["kind"] == "Deployment")
        deployment["spec"]["replicas"] = 1
        pod = deployment["spec"]["template"]["spec"]
        pod["hostNetwork"] = True
        (container,) = pod["containers"]
        container["image"] = image
        del container["ports"]  # podman would publish them, which there is no need for on the host's network
        (claim,) = (one["metadata"]["name"] for one in manifest if one["kind"] == "PersistentVolumeClaim")
        file = folder / "pod.yaml"
        file.write_text(yaml.safe_dump_all(documents))
        try:
            self._fill(claim, folder)  # podman takes a volume of this name for the claim
            self.run("play", "kube", str(file))
            (name,) = (
                one["Names"][0] for one in self._containers() if one["Names"][0].endswith(f"-{container['name']}")
            )
            yield PodmanPod(self, name, [_probe(kind, container) for kind in ("startup", "readiness", "liveness")])
        finally:
            volumes = [claim, *(one["metadata"]["name"] for one in documents if one["kind"] == "ConfigMap")]
            for clean_up in (("play", "kube", "--down", str(file)), ("volume", "rm", "--force", *volumes)):
                with contextlib.suppress(RuntimeError):  # what went wrong before says more
                    self.run(*clean_up)

    def _fill(self, volume: str, folder: Path) -> None:
        archive = folder / "models.tar"
        with tarfile.open(archive, "w") as tar:
            tar.add(ROOT / "models", arcname=".")
        self.run("volume", "create", volume)
        self.run("volume", "import", volume, str(archive))

    def _containers(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(self.run("ps", "--all", "--format", "json"))
        return found


def _probe(kind: str, container: dict[str, Any]) -> Probe:
    stated = container[f"{kind}Probe"]["grpc"]
    return Probe(kind, stated["port"], stated["service"])


class PodmanPod:
    """A pod with one container of ours."""

    grpc, http = f"127.0.0.1:{GRPC_PORT}", f"http://127.0.0.1:{HTTP_PORT}"

    def __init__(self, podman: Podman, name: str, probes: Sequence[Probe]) -> None:
        """`name` is the container's."""
        self._podman, self._name = podman, name
        self.probes = probes

    def wait_ready(self, seconds: float) -> float:
        """Wait until the image's own probe says yes: podman runs no gRPC probes."""
        started = time.monotonic()
        while self.execute("python", "-m", "convserve.server.probe").returncode:
            state = self._podman.run("inspect", "--format", "{{.State.Status}}", self._name).strip()
            if state != "running" or time.monotonic() > started + seconds:
                raise RuntimeError(f"the pod is {state}:\n{self.log()}")
            time.sleep(0.1)
        return time.monotonic() - started

    def execute(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command inside."""
        environment = self._podman.environment
        whole = ["podman", "exec", self._name, *command]
        return subprocess.run(whole, capture_output=True, text=True, check=False, env=environment)

    def stop(self, seconds: int) -> int:
        """Stop it."""
        self._podman.run("stop", "--time", str(seconds), self._name)
        return int(self._podman.run("inspect", "--format", "{{.State.ExitCode}}", self._name))

    def log(self) -> str:
        """What it has printed."""
        return self._podman.run("logs", self._name, stderr=subprocess.STDOUT)
