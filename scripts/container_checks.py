"""What must hold of a running container, whoever runs it. Each check raises CheckError, or returns what it saw."""

from __future__ import annotations

import collections
import json
import threading
import urllib.request
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import onnxruntime as ort
from grpc_health.v1 import health_pb2, health_pb2_grpc

import convserve
from convserve.v1 import classification_pb2 as pb
from convserve.v1 import classification_pb2_grpc as rpc
from scripts.containers import ROOT, Container

MODELS = ("mnist", "cifar10")
_CALLERS = 4
_CALLS_BEFORE_STOP = 200
_FORBIDDEN = ("apt", "apt-get", "dpkg", "pip", "pip3", "gcc", "cc", "c++", "ld", "as", "make")

CONTENT = f"""
import importlib.util, json, os, shutil, stat
special = [p for top, _, names in os.walk("/") if not top.startswith(("/proc", "/sys", "/dev"))
           for p in (os.path.join(top, n) for n in names)
           if os.path.isfile(p) and not os.path.islink(p) and os.lstat(p).st_mode & (stat.S_ISUID | stat.S_ISGID)]
print(json.dumps(dict(
    uid=os.getuid(), gid=os.getgid(), set_uid_files=special,
    tools=[t for t in {_FORBIDDEN!r} if shutil.which(t)],
    modules=[m for m in ("pip", "ensurepip", "setuptools") if importlib.util.find_spec(m)],
    packages_without_licence=[line[9:-1] for line in open("/var/lib/dpkg/status") if line.startswith("Package: ")
                              and not os.path.isfile(f"/usr/share/doc/{{line[9:-1]}}/copyright")],
    writable=[p for p in ("/", "/opt/convserve", "/mnt/models", "/usr", "/etc") if os.access(p, os.W_OK)],
)))
"""
"""Says what an image holds; run inside of it."""

FILES = """
import hashlib, os
total = hashlib.sha256()
for top, folders, names in os.walk("/"):
    folders.sort()
    if top == "/":
        folders[:] = [f for f in folders if f not in ("proc", "sys", "dev", "tmp")]
    for name in sorted(names + [f for f in folders if os.path.islink(os.path.join(top, f))]):
        path = os.path.join(top, name)
        if path in ("/etc/hosts", "/etc/hostname", "/etc/resolv.conf", "/.dockerenv"):
            continue
        info = os.lstat(path)
        content = os.readlink(path) if os.path.islink(path) else ""
        if not content and os.access(path, os.R_OK):
            with open(path, "rb") as file:
                content = hashlib.sha256(file.read()).hexdigest()
        total.update(repr((path, info.st_mode, info.st_uid, info.st_gid, content)).encode())
print(total.hexdigest())
"""
"""Prints a digest of every path, mode, owner and content of an image; time stamps do not count."""


class CheckError(Exception):
    """Something does not hold."""


def require(holds: bool, what: str) -> None:
    """Raise CheckError with a sentence unless it holds."""
    if not holds:
        raise CheckError(what)


def content(told: str) -> dict[str, Any]:
    """No installers, compilers or set-uid files, nothing to write to, all licences. `told` is what CONTENT printed."""
    found: dict[str, Any] = json.loads(told)
    require(found["uid"] == 10001, f"the image runs as user {found['uid']}, not 10001")
    for key in ("set_uid_files", "tools", "modules", "packages_without_licence", "writable"):
        require(found[key] == [], f"{key} in the image: {found[key]}")
    return found


def confinement(container: Container) -> dict[str, str]:
    """Not root, no capabilities, no new privileges, system calls filtered, root file system read-only."""
    lines = container.execute("cat", "/proc/1/status").stdout.splitlines()
    status = {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}
    require(status["Uid"].split()[0] == "10001", f"process 1 runs as {status['Uid']}")
    require(int(status["CapEff"], 16) == 0, f"process 1 has capabilities {status['CapEff']}")
    require(status["NoNewPrivs"] == "1", "process 1 may gain privileges")
    require(status["Seccomp"] == "2", "system calls are not filtered")
    for path in ("/written", "/opt/convserve/written", "/mnt/models/written"):
        ended = container.execute("touch", path)
        require("Read-only file system" in ended.stderr, f"touch {path}: {ended.stderr or 'it worked'}")
    return {key: status[key] for key in ("Uid", "CapEff", "NoNewPrivs", "Seccomp")}


def probes(container: Container) -> list[str]:
    """The health checks that the manifest states are answered with SERVING."""
    for probe in container.probes:
        with grpc.insecure_channel(f"127.0.0.1:{probe.port}") as channel:
            request = health_pb2.HealthCheckRequest(service=probe.service)
            answer = health_pb2_grpc.HealthStub(channel).Check(request, timeout=5)
        require(answer.status == health_pb2.HealthCheckResponse.SERVING, f"{probe} is answered with {answer.status}")
    return [f"{probe.name}: {probe.service!r} on {probe.port}" for probe in container.probes]


def answers(container: Container) -> dict[str, int]:
    """Every sample image of every model gets the class that onnxruntime computes here."""
    counts = {}
    with convserve.Client(container.grpc) as client:
        for model in MODELS:
            images, expected = _sample(model)
            found = [one.index for one in client.classify_batch(list(images), model=model)]
            require(found == expected, f"{model}: classes differ from onnxruntime's")
            counts[model] = len(found)
    return counts


def metrics(container: Container, images: dict[str, int]) -> int:
    """The metrics have counted those images. Returns the number of series."""
    with urllib.request.urlopen(f"{container.http}/metrics", timeout=10) as answer:
        lines = [line for line in answer.read().decode().splitlines() if not line.startswith("#")]
    for model, count in images.items():
        rows = sum(
            float(line.rsplit(" ", 1)[1])
            for line in lines
            if line.startswith("convserve_rows_total{") and f'model="{model}"' in line
        )
        require(rows == count, f"/metrics counts {rows:g} rows of {model}; {count} were sent")
    return len(lines)


def drain(container: Container, seconds: int) -> dict[str, int]:
    """SIGTERM under load: every call is answered or refused with UNAVAILABLE, none is cut, and the status is 0."""
    outcomes: collections.Counter[str] = collections.Counter()
    enough = threading.Event()
    lock = threading.Lock()
    images, _ = _sample("mnist")
    request = pb.ClassifyRequest(
        model="mnist", packed=pb.PackedImages(data=images[:1].tobytes(), shape=images[:1].shape)
    )

    def call() -> None:
        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0)]
        with grpc.insecure_channel(container.grpc, options) as channel:
            classify = rpc.ClassificationServiceStub(channel).Classify
            outcome = "answered"
            while outcome == "answered":
                try:
                    classify(request, timeout=10)
                except grpc.RpcError as error:
                    outcome = error.code().name
                with lock:
                    outcomes[outcome] += 1
                    if outcomes["answered"] >= _CALLS_BEFORE_STOP:
                        enough.set()

    callers = [threading.Thread(target=call) for _ in range(_CALLERS)]
    for caller in callers:
        caller.start()
    require(enough.wait(60), f"load did not come about: {dict(outcomes)}")
    status = container.stop(seconds)
    for caller in callers:
        caller.join()
    require(status == 0, f"the exit status is {status}:\n{container.log()[-3000:]}")
    require(set(outcomes) <= {"answered", "UNAVAILABLE"}, f"calls were lost: {dict(outcomes)}")
    drained = [json.loads(line) for line in container.log().splitlines() if '"event": "drained"' in line]
    require([one["requests_cut"] for one in drained] == [0], f"the log says {drained}")
    return {**outcomes, "exit_status": status}


def everything(container: Container, seconds_to_ready: float = 120, seconds_to_stop: int = 40) -> dict[str, Any]:
    """All checks in order, from start to stop. Returns what they saw."""
    ready = container.wait_ready(seconds_to_ready)
    seen: dict[str, Any] = {"seconds_to_healthy": round(ready, 1), "confinement": confinement(container)}
    if container.probes:
        seen["probes"] = probes(container)
    seen["images_classified"] = answers(container)
    seen["series_in_metrics"] = metrics(container, seen["images_classified"])
    seen["drain"] = drain(container, seconds_to_stop)
    return seen


def _sample(model: str) -> tuple[np.ndarray, list[int]]:
    """Test images that lie in the repository, and the classes that onnxruntime finds for them."""
    with np.load(ROOT / f"tests/data/{model}-sample.npz") as arrays:
        images = arrays["test_images"]
    newest = max((ROOT / "models" / model).glob("[0-9]*"), key=lambda one: int(one.name))
    session = ort.InferenceSession(Path(newest, "model.onnx"), providers=["CPUExecutionProvider"])
    (probabilities,) = session.run(["probabilities"], {"image": images})
    return images, [int(index) for index in np.asarray(probabilities).argmax(1)]
