"""A soak: minutes of load while versions are swapped, callers leave, and workers are killed.

Counts calls that were lost, wrong answers, and how memory and file descriptors of the workers develop. The bundled
`mnist` is copied; every few seconds the next version of it appears and the old one goes.

    python -m benchmarks.soak --minutes 10
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import msgspec
import numpy as np

import convserve
from benchmarks import common
from convserve import manifest as manifests
from convserve.errors import ConvserveError

SWAP_SECONDS, KILL_SECONDS, SAMPLE_SECONDS = 7.0, 61.0, 5.0


def next_version(model: Path, number: int) -> None:
    """Publish a copy of the newest version under the next number, and remove all but two."""
    source = model / str(number - 1)
    staged = model / f".staging-{number}"
    shutil.copytree(source, staged)
    manifest, _ = manifests.read(source)
    manifests.write(staged, msgspec.structs.replace(manifest, version=number))
    staged.rename(model / str(number))
    if (old := model / str(number - 2)).exists():
        shutil.rmtree(old)


def children(pid: int) -> list[int]:
    """Process ids of the workers."""
    return [int(one) for path in Path(f"/proc/{pid}/task").glob("*/children") for one in path.read_text().split()]


def main() -> None:
    """Run and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0, help="length (default: 10)")
    parser.add_argument("--callers", type=int, default=8, help="threads that call (default: 8)")
    parser.add_argument(
        "--without-kills", action="store_true", help="let the workers live, so that growth of their memory is seen"
    )
    args = parser.parse_args()
    before = common.conditions()
    with tempfile.TemporaryDirectory() as folder:
        repository = Path(folder, "models")
        source = max((common.ROOT / "models/mnist").glob("[0-9]*"), key=lambda one: int(one.name))
        shutil.copytree(source, repository / "mnist" / source.name)
        number = int(source.name)
        with np.load(source / manifests.GOLDEN_FILE) as arrays:
            images, expected = arrays["image"], arrays["probabilities"].argmax(1)
        serve = [sys.executable, "-m", "convserve", "serve", "--port", "0", "--http-port", "0", "--log-level", "error"]
        command = [*serve, "--model-repository", str(repository), "--workers", "2", "--repository-poll-interval", "1"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        port = json.loads(process.stdout.readline())["grpc_port"]
        outcomes: collections.Counter[str] = collections.Counter()
        lock, stop = threading.Lock(), threading.Event()

        def call(seed: int, client: convserve.Client) -> None:
            rng = random.Random(seed)
            while not stop.is_set():
                rows = [rng.randrange(len(images)) for _ in range(rng.choice((1, 1, 1, 4, 100)))]
                hasty = rng.random() < 0.05
                try:
                    answers = client.classify_batch(images[rows], model="mnist", timeout=0.002 if hasty else 30)
                    right = [one.index for one in answers] == expected[rows].tolist()
                    name = "answered" if right else "wrong"
                except ConvserveError as error:
                    name = f"hasty {type(error).__name__}" if hasty else type(error).__name__
                with lock:
                    outcomes[name] += 1

        samples: list[dict[str, float]] = []
        swaps = kills = 0
        with convserve.Client(f"127.0.0.1:{port}") as client:
            callers = [threading.Thread(target=call, args=(seed, client)) for seed in range(args.callers)]
            for caller in callers:
                caller.start()
            started = time.monotonic()
            due = {"swap": SWAP_SECONDS, "kill": KILL_SECONDS, "sample": SAMPLE_SECONDS}
            while (elapsed := time.monotonic() - started) < args.minutes * 60:
                if elapsed >= due["swap"]:
                    number += 1
                    next_version(repository / "mnist", number)
                    swaps += 1
                    due["swap"] += SWAP_SECONDS
                if elapsed >= due["kill"] and not args.without_kills:
                    os.kill(random.choice(children(process.pid)), signal.SIGKILL)
                    kills += 1
                    due["kill"] += KILL_SECONDS
                if elapsed >= due["sample"]:
                    due["sample"] += SAMPLE_SECONDS
                    with contextlib.suppress(OSError, IndexError):  # a worker that was just killed
                        supervisor = process.pid
                        samples.append(
                            {
                                "seconds": round(elapsed, 1),
                                "supervisor_mb": _resident_mb(supervisor),
                                "workers_mb": sum(map(_resident_mb, children(supervisor))),
                                "worker_fds": sum(
                                    len(list(Path(f"/proc/{one}/fd").iterdir())) for one in children(supervisor)
                                ),
                            }
                        )
                time.sleep(0.2)
            stop.set()
            for caller in callers:
                caller.join()
        process.send_signal(signal.SIGTERM)
        status = process.wait(60)
        process.stdout.close()
    kept = ("answered",)
    lost = {name: count for name, count in outcomes.items() if name not in kept and not name.startswith("hasty")}
    quarter = max(len(samples) // 4, 1)
    memory = [sample["workers_mb"] for sample in samples]
    result = {
        "what": "Calls lost, memory and file descriptors over a soak with swaps, cancellations and killed workers",
        "conditions": before,
        "minutes": args.minutes,
        "swaps": swaps,
        "workers_killed": kills,
        "exit_status": status,
        "outcomes": dict(outcomes),
        "lost": lost,
        "memory_growth": float(np.median(memory[-quarter:]) / np.median(memory[quarter : 2 * quarter]) - 1),
        "samples": samples,
    }
    print({key: value for key, value in result.items() if key not in ("samples", "conditions")})
    print(common.write_result("soak-without-kills" if args.without_kills else "soak", result).relative_to(common.ROOT))


def _resident_mb(pid: int) -> float:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


if __name__ == "__main__":
    main()
