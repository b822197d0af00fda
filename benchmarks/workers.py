"""How throughput grows with `--workers`, and what a further worker costs: CPU time, memory, time to ready.

    python -m benchmarks.workers --repetitions 3

Scaling: a heavy model and packed batches of 64 images through `convserve.Client`, so that the client needs little. With
N workers the server has N cores; the client has the others, or, where none is left, shares them, and then its CPU time
is told and taken off. Raw onnxruntime, one process on each core at once, says what the machine itself allows.

Single calls: what they cost with one and with several workers on the same single core and under the same load. That
shows what dividing the work costs (smaller batches, changes of process); not what cores do to each other.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from benchmarks import common, light, processes, raw_cores, throughput
from benchmarks.common import Load, Peer
from convserve import Client
from convserve.arrays import Images
from convserve.client.settings import DEFAULT_CONNECTIONS

TARGETS = {"scaling": 0.9, "further_worker_mb": 40.0, "one_worker_mb": 130.0, "ready_seconds": 1.5}
"""Scaling at least; the others at most."""
ROWS = 64
"""Images of a packed batch: as many as a batch of the server has."""
IN_FLIGHT, CONNECTIONS = 4, 4
"""Calls under way and connections of the client, for each worker."""
SECONDS = 3.0
SINGLE = Load(8, 8, 10_000)
PATIENCE = 300.0
"""Seconds that calls may take where only memory is measured, which does not depend on how busy the machine is."""
FRESH_CLIENTS, CALLS = 20, 64
"""How often, and with how many calls, it is looked where the calls of a new client go."""

Row: TypeAlias = dict[str, float]


def serve(repository: Path, workers: int, *flags: str) -> Peer:
    """The server with so many workers."""
    command = [sys.executable, "-m", "convserve", "serve", "--port", "0", "--http-port", "0", "--log-level", "error"]
    return Peer("convserve", [*command, "--model-repository", str(repository), "--workers", str(workers), *flags])


def members(server: common.Running) -> list[int]:
    """The process that was started, and its workers where it is a supervisor."""
    return [server.pid, *processes.children(server.pid)]


def at_once(threads: int, work: Callable[[int], None]) -> None:
    """Run `work` in so many threads, and pass on what one of them raises."""
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(work, range(threads)))


def scale(repository: Path, workers: int, cores: Sequence[int], seconds: float) -> Row:
    """Images per second of batches with N workers on the first N cores."""
    own, others = cores[:workers], cores[workers:]
    images: Images = np.random.default_rng(1).integers(0, 256, (ROWS, *light.SHAPE), dtype=np.uint8)
    with common.running(serve(repository, workers), cores=own) as server:
        os.sched_setaffinity(0, others or cores)
        throughput.check(server.port, repository / light.HEAVY / "1", light.HEAVY)
        counts = [0] * (IN_FLIGHT * workers)
        with Client(f"127.0.0.1:{server.port}", connections=CONNECTIONS * workers) as client:

            def call(at: int) -> None:
                while time.perf_counter() < ends:
                    client.classify_batch(images, model=light.HEAVY)
                    counts[at] += 1

            ends = time.perf_counter() + seconds / 4
            at_once(len(counts), call)  # connections, caches
            counts[:] = [0] * len(counts)
            used = {pid: processes.cpu_seconds(pid) for pid in members(server)}
            begun, client_begun = time.perf_counter(), time.process_time()
            ends = begun + seconds
            at_once(len(counts), call)
            took, client_seconds = time.perf_counter() - begun, time.process_time() - client_begun
            spent = [processes.cpu_seconds(pid) - before for pid, before in used.items()]
        os.sched_setaffinity(0, cores)
    shared = 0.0 if others else client_seconds / workers
    done, working = sum(counts) * ROWS, spent[1:] or spent
    return {
        "images_per_second": done / took,
        "images_per_second_less_client": done / (took - shared),
        "server_cpu_seconds_per_image": sum(spent) / done,
        "client_cpu_seconds_per_image": client_seconds / done,
        "server_cores_busy": sum(spent) / took,
        "client_cores_busy": client_seconds / took,
        "least_busy_worker": min(working) / took,
        "busiest_worker": max(working) / took,
    }


def single_calls(repository: Path, workers: int, requests: int) -> Row:
    """Rate and CPU time of single-image calls, all workers on one core."""
    images: Images = np.random.default_rng(1).integers(0, 256, (1, *light.SHAPE), dtype=np.uint8)
    message, path = throughput.body("native", light.NAME, images), throughput.PATHS["native"]
    with common.running(serve(repository, workers)) as server:
        throughput.check(server.port, repository / light.NAME / "1", light.NAME)
        common.h2load(server.port, path, message, Load(SINGLE.connections, SINGLE.streams, max(requests // 5, 64)))
        used = sum(map(processes.cpu_seconds, members(server)))
        found = common.h2load(server.port, path, message, Load(SINGLE.connections, SINGLE.streams, requests))
        spent = sum(map(processes.cpu_seconds, members(server))) - used
    return {**found, "server_cpu_seconds_per_request": spent / requests}


def spread_of_calls(repository: Path, workers: int, clients: int) -> dict[str, Any]:
    """Which worker answers how many single calls of a new client with its usual connections, again and again."""
    image: Images = np.zeros(light.SHAPE, np.uint8)
    each: list[list[int]] = []
    with tempfile.NamedTemporaryFile() as log:
        flags = ("--access-log-share", "1", "--log-format", "json", "--log-level", "info")
        with common.running(serve(repository, workers, *flags), cores=available(), stderr=log.file) as server:
            for _ in range(clients):
                with Client(f"127.0.0.1:{server.port}", coalesce=False) as client:

                    def call(_: int, client: Client = client) -> None:
                        for _ in range(CALLS // 8):
                            client.classify(image, model=light.NAME)

                    at_once(8, call)
                each.append(_lines_by_worker(Path(log.name), workers, CALLS * (len(each) + 1), each))
    return {
        "workers": workers,
        "connections": DEFAULT_CONNECTIONS,
        "calls": [sum(found) for found in zip(*each, strict=True)],
        "largest_share": [max(found) / CALLS for found in each],
        "clients_that_missed_a_worker": sum(min(found) == 0 for found in each),
    }


def _lines_by_worker(log: Path, workers: int, wanted: int, before: list[list[int]]) -> list[int]:
    """Lines of the access log by worker, less those of earlier clients. Waits until all are written."""
    give_up = time.monotonic() + 10
    while True:
        lines = [json.loads(line) for line in log.read_text().splitlines() if '"event": "request"' in line]
        if len(lines) >= wanted:
            break
        if time.monotonic() > give_up:
            raise RuntimeError(f"the access log has {len(lines)} lines for {wanted} calls")
        time.sleep(0.01)
    counts = Counter(line["worker"] for line in lines)
    return [counts[worker] - sum(found[worker] for found in before) for worker in range(workers)]


def memory(workers: int, cores: Sequence[int]) -> Row:
    """MB with both bundled models, before and after load on both."""
    with common.running(serve(common.ROOT / "models", workers), cores=cores) as server:
        idle = [processes.memory(pid) for pid in members(server)]
        with (
            Client(f"127.0.0.1:{server.port}", connections=CONNECTIONS * workers) as client,
            Client(f"127.0.0.1:{server.port}", connections=CONNECTIONS * workers, coalesce=False) as single,
        ):
            for model in client.models():
                shape = model.versions[0].input_shape
                images: Images = np.random.default_rng(0).integers(0, 256, (ROWS, *shape), dtype=np.uint8)

                def call(at: int, name: str = model.name, images: Images = images) -> None:
                    for _ in range(8):
                        client.classify_batch(images, model=name, timeout=PATIENCE)
                    for _ in range(50):
                        single.classify(images[at], model=name, timeout=PATIENCE)

                at_once(IN_FLIGHT * workers, call)
        after = [processes.memory(pid) for pid in members(server)]
    row = {"supervisor_resident_mb": after[0].resident, "supervisor_unshared_mb": after[0].unshared}
    if workers == 1:  # no supervisor: the process itself is the worker
        row = {}
    first = 0 if workers == 1 else 1
    return {
        **row,
        "resident_idle_mb": max(one.resident for one in idle[first:]),
        "unshared_idle_mb": max(one.unshared for one in idle[first:]),
        "resident_mb": max(one.resident for one in after[first:]),
        "unshared_mb": max(one.unshared for one in after[first:]),
    }


def start(workers: int, cores: Sequence[int]) -> Row:
    """From exec to the ready line, with both bundled models; and the CPU time until then, of all processes."""
    with common.running(serve(common.ROOT / "models", workers), cores=cores) as server:
        spent = sum(map(processes.cpu_seconds, members(server)))
        return {"seconds": server.seconds_to_ready, "cpu_seconds": spent}


def available() -> list[int]:
    """Cores that this process may use."""
    return sorted(os.sched_getaffinity(0))


def counts_up_to(cores: int) -> list[int]:
    """1, 2, 4, ... and all cores."""
    return sorted({*(2**power for power in range(cores.bit_length()) if 2**power <= cores), cores})


class Readings:
    """Rows by name, repetition by repetition."""

    def __init__(self) -> None:
        """Start empty."""
        self._rows: dict[str, list[Row]] = {}

    def add(self, name: object, row: Row) -> None:
        """Keep a row and show it."""
        self._rows.setdefault(str(name), []).append(row)
        print(f"  {name!s:16}", {key: float(f"{value:.4g}") for key, value in row.items()}, flush=True)

    def summary(self) -> dict[str, dict[str, dict[str, float]]]:
        """Medians and spreads."""
        return {
            name: {key: common.summary([row[key] for row in rows]) for key in rows[0]}
            for name, rows in self._rows.items()
        }

    def scaling(self, number: int, key: str) -> dict[str, float]:
        """What N have of N times what one has, from the rows of the same repetition."""
        pairs = zip(self._rows[str(number)], self._rows["1"], strict=True)
        return common.summary([many[key] / (number * one[key]) for many, one in pairs])


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=3, help="how often everything is measured (default: 3)")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of one measurement of scaling (default: 3)")
    parser.add_argument("--requests", type=int, default=SINGLE.requests, help="single calls (default: 10000)")
    parser.add_argument("--clients", type=int, default=FRESH_CLIENTS, help="new clients whose calls are counted")
    args = parser.parse_args()
    common.need("h2load", "nghttp2-client")
    cores = available()
    numbers = counts_up_to(len(cores))
    before = common.conditions()
    kinds = ("scaling", "raw", "single_calls", "memory", "ready")
    readings = {kind: Readings() for kind in kinds}
    with tempfile.TemporaryDirectory() as folder:
        heavy, small = Path(folder, "heavy"), Path(folder, "light")
        directory = light.write_version(heavy, light.HEAVY)
        light.write_version(small)
        for repetition in range(args.repetitions):
            print(f"repetition {repetition + 1}", flush=True)
            for workers in numbers if repetition % 2 == 0 else reversed(numbers):
                name, own = str(workers), cores[:workers]
                readings["raw"].add(name, {"images_per_second": raw_cores.together(directory, ROWS, own)})
                readings["scaling"].add(name, scale(heavy, workers, cores, args.seconds))
                readings["single_calls"].add(name, single_calls(small, workers, args.requests))
                readings["memory"].add(name, memory(workers, cores))
                readings["ready"].add(f"{name} on 1 core", start(workers, cores[:1]))
                if len(cores) > 1:
                    readings["ready"].add(f"{name} on {len(cores)} cores", start(workers, cores))
        spread = spread_of_calls(small, max(numbers[-1], 2), args.clients)
    result: dict[str, Any] = {
        "what": __doc__.splitlines()[0] if __doc__ else "",
        "conditions": {**before, "load_average_after": os.getloadavg()[0]},
        "targets": TARGETS,
        "rows_of_a_batch": ROWS,
        "client_shares_cores": {str(number): number == len(cores) for number in numbers},
        "cores": len(cores),
        **{kind: readings[kind].summary() for kind in kinds},
        "of_n_times_one": {
            str(number): {
                "raw": readings["raw"].scaling(number, "images_per_second"),
                "measured": readings["scaling"].scaling(number, "images_per_second"),
                "less_client": readings["scaling"].scaling(number, "images_per_second_less_client"),
            }
            for number in numbers
        },
        "spread_of_calls": spread,
    }
    print(json.dumps(result["of_n_times_one"][str(numbers[-1])]), json.dumps(spread))
    print(common.write_result("workers", result).relative_to(common.ROOT))


if __name__ == "__main__":
    main()
