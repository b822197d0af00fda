"""Build an image and prove it: in a Docker engine, and as the pod of the rendered cpu overlay in podman.

Builds with the engine at hand, or with a stand-in engine and base where there is none (then as root, on Debian). Runs
the image without root, capabilities or a writable file system; waits until it is healthy; classifies through the
published port; reads the metrics; stops it under load. Then the same with `podman play kube` on what
`kubectl kustomize deploy/kubernetes/overlays/cpu` prints. Ports 8001 and 8002 must be free. Writes deploy/results/.

    python -m scripts.check_image --twice
"""

from __future__ import annotations

import argparse
import datetime
import json
import socket
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml

from scripts import container_checks as checks
from scripts.containers import GRPC_PORT, HTTP_PORT, ROOT, run
from scripts.containers.docker import Docker, engine
from scripts.containers.podman import Podman

MOST_BYTES = 400e6
IMAGE = "convserve:checked"


def main() -> int:
    """Run all steps, print them as they pass, and keep the result. Returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--suite", default="bookworm", help="Debian release of a stand-in base (default: bookworm)")
    parser.add_argument("--twice", action="store_true", help="build twice without cache and compare every file")
    parser.add_argument("--no-podman", action="store_true", help="leave the pod out")
    args = parser.parse_args()
    result: dict[str, Any] = {
        "what": "The cpu image, built, run, drained",
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "commit": run("git", "rev-parse", "--short", "HEAD", cwd=ROOT).strip(),
    }
    try:
        with engine(args.suite) as (docker, description):
            result["engine"] = description
            result["image"] = _built(docker, twice=args.twice)
            with docker.serving(IMAGE, _free_ports()) as container:
                result["docker"] = _step("docker run", checks.everything(container))
            if not args.no_podman:
                result["podman"] = _as_pod(docker)
    except (checks.CheckError, RuntimeError) as error:
        print(f"FAILED: {error}", file=sys.stderr)
        return 1
    path = ROOT / "deploy/results/image.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(result, indent=2) + "\n")
    print(path.relative_to(ROOT))
    return 0


def _built(docker: Docker, *, twice: bool) -> dict[str, Any]:
    seconds = docker.build("cpu", IMAGE, cache=not twice)
    size = int(docker.inspect(IMAGE, "{{.Size}}"))
    checks.require(size <= MOST_BYTES, f"the image has {size / 1e6:.0f} MB; at most {MOST_BYTES / 1e6:.0f} are allowed")
    seen = {"bytes": size, "seconds_to_build": round(seconds), **checks.content(docker.in_image(IMAGE, checks.CONTENT))}
    seen["python"] = docker.in_image(IMAGE, "import platform; print(platform.python_version())").strip()
    if twice:
        before = docker.in_image(IMAGE, checks.FILES).strip()
        docker.build("cpu", IMAGE, cache=False)
        after = docker.in_image(IMAGE, checks.FILES).strip()
        checks.require(before == after, "two builds without cache have different files")
        seen["same_files_when_built_again"] = True
    return _step("image", seen)


def _as_pod(docker: Docker) -> dict[str, Any]:
    for port in (GRPC_PORT, HTTP_PORT):
        with socket.socket() as probe:
            checks.require(
                probe.connect_ex(("127.0.0.1", port)) != 0, f"port {port}, which the manifest names, is in use"
            )
    rendered = run("kubectl", "kustomize", str(ROOT / "deploy/kubernetes/overlays/cpu"))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        podman = Podman(folder)
        podman.load(docker, IMAGE)
        manifest = list(yaml.safe_load_all(rendered))
        with podman.playing(manifest, f"localhost/{IMAGE}", folder) as container:
            return _step("podman play kube", {"version": podman.version, **checks.everything(container)})


def _free_ports() -> tuple[int, int]:
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
        return one.getsockname()[1], other.getsockname()[1]


def _step(name: str, seen: dict[str, Any]) -> dict[str, Any]:
    print(f"{name}: {json.dumps(seen)}", flush=True)
    return seen


if __name__ == "__main__":
    sys.exit(main())
