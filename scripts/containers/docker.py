"""A Docker engine, and the image in it."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence

from scripts.containers import GRPC_PORT, HTTP_PORT, ROOT, Probe, run


class Docker:
    """A Docker engine, the one that DOCKER_HOST names or a stand-in."""

    def __init__(self, program: str, base: str | None) -> None:
        """Use `program`; `base` is the image to build on, None for the Dockerfile's own."""
        self.program, self.base = program, base
        networks = run(program, "network", "ls", "--format", "{{.Name}}").split()
        self.has_bridge = "bridge" in networks
        """Whether ports can be published; otherwise containers use the host's network."""
        self.version = run(program, "version", "--format", "{{.Server.Version}}").strip()

    def build(self, target: str, tag: str, *, cache: bool = True) -> float:
        """Build a target. Returns seconds."""
        revision = run("git", "rev-parse", "HEAD", cwd=ROOT).strip()
        command = [self.program, "build", "--progress", "plain", "--target", target, "--tag", tag]
        command += ["--build-arg", f"REVISION={revision}"]
        command += ["--build-arg", f"PYTHON_IMAGE={self.base}"] if self.base else []
        command += [] if self.has_bridge else ["--network", "host"]
        command += [] if cache else ["--no-cache"]
        started = time.monotonic()
        run(*command, str(ROOT), env={**os.environ, "DOCKER_BUILDKIT": "1"})
        return time.monotonic() - started

    def inspect(self, name: str, template: str) -> str:
        """A property of an image or container."""
        return run(self.program, "inspect", "--format", template, name).strip()

    def in_image(self, image: str, code: str) -> str:
        """Run Python code in a new container of an image, as its own user. Returns what it printed."""
        network = [] if self.has_bridge else ["--network", "host"]
        return run(self.program, "run", "--rm", *network, "--entrypoint", "python", image, "-c", code)

    @contextlib.contextmanager
    def serving(self, image: str, ports: tuple[int, int]) -> Iterator[DockerContainer]:
        """Run the image as hardened as can be, its ports published as `ports` on loopback."""
        command = [self.program, "run", "--detach", "--read-only", "--tmpfs", "/tmp:rw,noexec,nosuid,size=16m"]
        command += [
            "--cap-drop",
            "ALL",
            "--security-opt",
            "no-new-privileges",
            "--memory",
            "512m",
            "--pids-limit",
            "256",
        ]
        command += ["--health-interval", "1s"]
        if self.has_bridge:
            for outside, inside in zip(ports, (GRPC_PORT, HTTP_PORT), strict=True):
                command += ["--publish", f"127.0.0.1:{outside}:{inside}"]
        else:
            command += ["--network", "host", "--env", "CONVSERVE_HOST=127.0.0.1"]
            command += ["--env", f"CONVSERVE_PORT={ports[0]}", "--env", f"CONVSERVE_HTTP_PORT={ports[1]}"]
        name = run(*command, image).strip()
        try:
            yield DockerContainer(self, name, ports)
        finally:
            run(self.program, "rm", "--force", name)


class DockerContainer:
    """A container of a Docker engine."""

    probes: Sequence[Probe] = ()

    def __init__(self, docker: Docker, name: str, ports: tuple[int, int]) -> None:
        """`name` is the container's id."""
        self._docker, self._name = docker, name
        self.grpc, self.http = f"127.0.0.1:{ports[0]}", f"http://127.0.0.1:{ports[1]}"

    def wait_ready(self, seconds: float) -> float:
        """Wait for the HEALTHCHECK's verdict."""
        started = time.monotonic()
        while (
            status := self._docker.inspect(self._name, "{{.State.Status}} {{.State.Health.Status}}")
        ) != "running healthy":
            if not status.startswith("running") or time.monotonic() > started + seconds:
                raise RuntimeError(f"the container is {status}:\n{self.log()}")
            time.sleep(0.1)
        return time.monotonic() - started

    def execute(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command inside."""
        whole = [self._docker.program, "exec", self._name, *command]
        return subprocess.run(whole, capture_output=True, text=True, check=False)

    def stop(self, seconds: int) -> int:
        """Stop it."""
        run(self._docker.program, "stop", "--time", str(seconds), self._name)
        return int(self._docker.inspect(self._name, "{{.State.ExitCode}}"))

    def log(self) -> str:
        """What it has printed."""
        return run(self._docker.program, "logs", self._name, stderr=subprocess.STDOUT)


@contextlib.contextmanager
def engine(suite: str) -> Iterator[tuple[Docker, str]]:
    """A Docker engine, and what it is: the one at hand, or else a stand-in that runs while the block does.

    Args:
        suite: the Debian release that the stand-in's base image is made from.
    """
    at_hand = shutil.which("docker")
    if at_hand and subprocess.run([at_hand, "info"], capture_output=True, check=False).returncode == 0:
        docker = Docker(at_hand, os.environ.get("PYTHON_IMAGE"))
        yield docker, f"Docker {docker.version}, base {docker.base or 'as in the Dockerfile'}"
        return
    script, folder = str(ROOT / "scripts/stand_in_engine.sh"), ROOT / "build/engine"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "started").open("w+") as out:  # to a file: the engine keeps the stream open, a pipe would never end
        subprocess.run([script, "start", str(folder), suite], check=True, stdout=out)
        out.seek(0)
        told = dict(line.strip().split("=", 1) for line in out)
    os.environ["DOCKER_HOST"] = told["DOCKER_HOST"]
    try:
        docker = Docker("/usr/bin/docker", told["PYTHON_IMAGE"])
        yield docker, f"Docker {docker.version}, stand-in base {docker.base} from Debian {suite}"
    finally:
        subprocess.run([script, "stop", str(folder)], check=True)
