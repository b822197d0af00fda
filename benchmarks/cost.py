"""Where the CPU time of one small request goes, now and before a change: a profile by library, in microseconds.

The server is pinned to one core and answers the light model with 64 requests in flight, while `perf` samples it. With
`--against`, older code is checked out beside this one and measured in turns with it.

    python -m benchmarks.cost --against d69487f --repetitions 3
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from benchmarks import common, light, throughput
from benchmarks.common import Load, Peer

PARTS = {
    "onnxruntime": "model (onnxruntime)",
    "libpython": "Python",
    "python3": "Python",
    "cygrpc": "gRPC",
    "kernel": "kernel",
    "_message": "protobuf",
    "_multiarray": "NumPy",
    "libc.": "C library",
}
"""What the name of a library begins with or holds, and what to call it; everything else is `other`."""

OTHER = "other"
LOAD = Load(connections=4, streams=16, requests=40_000)
_SAMPLES_PER_SECOND = 1999
_SECONDS = 4


def measure(code: Path, repository: Path, message: bytes) -> dict[str, float]:
    """Measure the server of a checkout once. Returns microseconds of CPU by part, and what else tells the cost."""
    serve = [sys.executable, "-m", "convserve", "serve", "--port", "0", "--http-port", "0", "--log-level", "error"]
    peer = Peer("convserve", ["env", f"PYTHONPATH={code}", *serve, "--model-repository", str(repository)])
    path = throughput.PATHS["native"]
    with common.running(peer) as server, tempfile.TemporaryDirectory() as folder:
        common.h2load(server.port, path, message, Load(LOAD.connections, LOAD.streams, LOAD.requests // 10))
        used, switched = server.cpu_seconds(), _switches(server.pid)
        answered: dict[str, float] = {}
        load = threading.Thread(target=lambda: answered.update(common.h2load(server.port, path, message, LOAD)))
        load.start()
        shares = sample(server.pid, Path(folder, "perf.data"))
        load.join()
        micros = (server.cpu_seconds() - used) / LOAD.requests * 1e6
        switches = (_switches(server.pid) - switched) / LOAD.requests
    return {
        "requests_per_second": answered["requests_per_second"],
        "microseconds": micros,
        "context_switches": switches,
        **{part: micros * share for part, share in shares.items()},
    }


def sample(pid: int, data: Path) -> dict[str, float]:
    """Look where a process is, some thousand times. Returns the share of its CPU time by part; they add up to 1."""
    record = ["perf", "record", "-F", str(_SAMPLES_PER_SECOND), "-o", str(data), "-p", str(pid)]
    subprocess.run([*record, "--", "sleep", str(_SECONDS)], check=True, capture_output=True)
    report = ["perf", "report", "-i", str(data), "--sort", "dso", "--stdio"]
    lines = subprocess.run(report, check=True, capture_output=True, text=True).stdout
    shares = dict.fromkeys([*PARTS.values(), OTHER], 0.0)
    for percent, library in re.findall(r"^\s*([\d.]+)%\s+(\S+)", lines, re.MULTILINE):
        part = next((name for start, name in PARTS.items() if start in library), OTHER)
        shares[part] += float(percent) / 100
    total = sum(shares.values())
    return {part: share / total for part, share in shares.items()}


def _switches(pid: int) -> int:
    """Changes of thread so far, of all threads of a process."""
    files = [task / "status" for task in Path(f"/proc/{pid}/task").iterdir()]
    return sum(int(count) for one in files for count in re.findall(r"ctxt_switches:\s+(\d+)", one.read_text()))


@contextmanager
def checkouts(revision: str | None) -> Iterator[Mapping[str, Path]]:
    """The code to measure, by name: this checkout's, and that of an older revision if one is named."""
    now = {"now": common.ROOT / "service"}
    if revision is None:
        yield now
        return
    with tempfile.TemporaryDirectory() as folder:
        before = Path(folder, "before")
        git = ["git", "-C", str(common.ROOT), "worktree"]
        subprocess.run([*git, "add", "--detach", str(before), revision], check=True, capture_output=True)
        try:
            yield {f"before ({revision})": before / "service", **now}
        finally:
            subprocess.run([*git, "remove", "--force", str(before)], check=True)


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=3, help="how often everything is measured (default: 3)")
    parser.add_argument("--against", help="a revision to compare with")
    args = parser.parse_args()
    common.need("h2load", "nghttp2-client")
    common.need("perf", "linux-perf")
    before = common.conditions()
    image = np.random.default_rng(1).integers(0, 256, (1, *light.SHAPE), dtype=np.uint8)
    message = throughput.body("native", light.NAME, image)
    with tempfile.TemporaryDirectory() as folder, checkouts(args.against) as versions:
        light.write_version(Path(folder))
        runs: dict[str, list[dict[str, float]]] = {name: [] for name in versions}
        for _ in range(args.repetitions):
            for name, code in versions.items():
                runs[name].append(measure(code, Path(folder), message))
                print(f"{name:20} {runs[name][-1]['microseconds']:6.0f} µs a request", flush=True)
    result = {
        "what": "CPU time of the server for one request of the light model, 64 in flight, by library; microseconds.",
        "conditions": {**before, "load_average_after": os.getloadavg()[0]},
        "versions": {
            name: {key: common.summary([run[key] for run in own]) for key in own[0]} for name, own in runs.items()
        },
    }
    print(common.write_result("cost", result).relative_to(common.ROOT))


if __name__ == "__main__":
    main()
