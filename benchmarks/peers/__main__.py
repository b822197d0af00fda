"""Requests per second and latency of convserve and its peers on one core, all asked by the same messages.

Server and load generator are pinned to a core each. Everything alternates, several times; the ratios to convserve and
to raw onnxruntime of the same repetition are what can be compared between machines. Peers that are not installed are
named as not measured.

    python -m benchmarks.peers --repetitions 3
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import common, throughput
from benchmarks.common import Load
from benchmarks.peers import environments
from benchmarks.peers.catalogue import PEERS, SERVERS, Model, Peer
from benchmarks.peers.process import Running, running
from convserve import manifest as manifests
from convserve.open_inference.v2 import infer_pb2

PATH = "/inference.GRPCInferenceService/ModelInfer"
POINTS = {
    "1 in flight": (1, Load(1, 1, 1_500)),
    "4 in flight": (1, Load(4, 1, 4_000)),
    "16 in flight": (1, Load(4, 4, 6_000)),
    "64 in flight": (1, Load(4, 16, 8_000)),
    "batch 32, 4 in flight": (32, Load(4, 1, 800)),
}
OURS = PEERS[0].name

Row = dict[str, float]


def check(server: Running, model: Model) -> None:
    """Have a real client compare answers with the golden ones.

    Raises:
        RuntimeError: they differ, or there is no client.
    """
    python = environments.python_of(environments.CLIENT)
    if python is None:
        raise RuntimeError("there is no client to check answers; python -m benchmarks.peers.environments client")
    command: list[str | Path] = [python, SERVERS / "client.py", f"127.0.0.1:{server.port}", model.name, model.golden]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    if ended.returncode:
        raise RuntimeError(f"wrong answers: {ended.stderr.strip()}")


def body(model: Model, images: int) -> bytes:
    """A request with so many random images, uint8 as they are."""
    pixels = np.random.default_rng(1).integers(0, 256, (images, *model.input.shape), dtype=np.uint8)
    request = infer_pb2.ModelInferRequest(model_name=model.name, raw_input_contents=[pixels.tobytes()])
    request.inputs.add(name=manifests.INPUT_NAME, datatype="UINT8", shape=pixels.shape)
    request.outputs.add(name=manifests.PROBABILITIES_NAME)
    return request.SerializeToString()


def measure(peer: Peer, model: Model, share: float, limits: Row) -> tuple[dict[str, Row], Row]:
    """Measure one peer once. Returns its figures by point, and those of its process."""
    points: dict[str, Row] = {}
    with running(peer, model) as server:
        check(server, model)
        process = {"seconds_to_ready": server.seconds_to_ready, "idle_mb": server.memory_mb()}
        for point, (images, full) in POINTS.items():
            load = Load(full.connections, full.streams, max(int(full.requests * share), 50))
            message = body(model, images)
            common.h2load(server.port, PATH, message, Load(load.connections, load.streams, max(load.requests // 5, 50)))
            used = server.cpu_seconds()
            row = common.h2load(server.port, PATH, message, load)
            row["server_cpu_seconds_per_request"] = (server.cpu_seconds() - used) / load.requests
            row["of_raw"] = row["requests_per_second"] * images / limits[str(images)]
            points[point] = row
            print(f"  {peer.name:28} {point:22} {row['requests_per_second']:8.0f}/s", flush=True)
        check(server, model)  # h2load does not look at grpc-status; a server that fell over would show here
        process["after_mb"] = server.memory_mb()
    return points, process


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=3, help="how often everything is measured (default: 3)")
    parser.add_argument("--share", type=float, default=1.0, help="share of the requests, for a trial (default: 1)")
    parser.add_argument(
        "--model-repository", type=Path, default=common.ROOT / "models", help="where the model is (default: models)"
    )
    parser.add_argument("--model", default="mnist", help="the model to serve (default: mnist)")
    parser.add_argument("--only", nargs="+", choices=[peer.name for peer in PEERS], help="measure these alone")
    args = parser.parse_args()
    common.need("h2load", "nghttp2-client")
    root = args.model_repository.resolve() / args.model
    directory = max((entry for entry in root.iterdir() if entry.name.isdigit()), key=lambda entry: int(entry.name))
    manifest, digest = manifests.read(directory)
    model = Model(args.model, directory, manifest.input, len(manifest.labels))
    chosen = [peer for peer in PEERS if not args.only or peer.name in args.only]
    absent = {peer.name: peer.missing for peer in chosen if peer.missing}
    for name, reason in absent.items():
        print(f"not measured: {name} ({reason})")
    before = common.conditions()
    runs: dict[str, list[tuple[dict[str, Row], Row]]] = {peer.name: [] for peer in chosen if not peer.missing}
    limits = []
    for repetition in range(args.repetitions):
        limits.append(throughput.raw(directory))
        print(f"repetition {repetition + 1}: raw onnxruntime {limits[-1]['1']:.0f} images/s one by one", flush=True)
        for peer in chosen:
            if peer.name in runs:
                runs[peer.name].append(measure(peer, model, args.share, limits[-1]))
    result: dict[str, Any] = {
        "what": __doc__.splitlines()[0] if __doc__ else "",
        "model": {
            "name": args.model,
            "preset": manifest.training.preset,
            "digest": digest,
            "parameters": manifest.training.parameters,
        },
        "conditions": {**before, "share_of_requests": args.share},
        "raw_onnxruntime_images_per_second": {
            size: common.summary([one[size] for one in limits]) for size in limits[0]
        },
        "not_measured": absent,
        "servers": {peer.name: _summary(peer, runs) for peer in chosen if peer.name in runs},
    }
    print(table(result))
    if args.share < 1 or args.only:
        print("a trial: nothing is written")
    else:
        print(common.write_result(f"peers-{manifest.training.preset}", result).relative_to(common.ROOT))


def _summary(peer: Peer, runs: dict[str, list[tuple[dict[str, Row], Row]]]) -> dict[str, Any]:
    own = runs[peer.name]
    return {
        "about": peer.about,
        "process": {key: common.summary([process[key] for _, process in own]) for key in own[0][1]},
        "points": {
            point: {key: common.summary([points[point][key] for points, _ in own]) for key in own[0][0][point]}
            | _ratio(own, runs.get(OURS, []), point)
            for point in POINTS
        },
    }


def _ratio(
    own: list[tuple[dict[str, Row], Row]], ours: list[tuple[dict[str, Row], Row]], point: str
) -> dict[str, dict[str, float]]:
    """How many times as many requests convserve answers, from pairs of the same repetition."""
    pairs = [
        mine[point]["requests_per_second"] / theirs[point]["requests_per_second"]
        for (mine, _), (theirs, _) in zip(ours, own, strict=False)
    ]
    return {"convserve_times_as_many": common.summary(pairs)} if pairs else {}


def table(result: dict[str, Any]) -> str:
    """The result for a reader: ratios first."""
    lines = ["| | " + " | ".join(POINTS) + " | ready | memory |", "|---" * (len(POINTS) + 3) + "|"]
    for name, server in result["servers"].items():
        cells = []
        for point in POINTS:
            row = server["points"][point]
            ratio = row.get("convserve_times_as_many")
            rate = f"{row['requests_per_second']['median']:,.0f}/s, {row['of_raw']['median']:.2f} of raw"
            cells.append(f"×{1 / ratio['median']:.2f} ({rate})" if ratio else rate)
        process = {key: value["median"] for key, value in server["process"].items()}
        cells.append(f"{process['seconds_to_ready']:.2f} s")
        cells.append(f"{process['idle_mb']:.0f} → {process['after_mb']:.0f} MB")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    spread = statistics.median(
        row["requests_per_second"]["spread"]
        for server in result["servers"].values()
        for row in server["points"].values()
    )
    lines.append(f"\n× is requests per second beside convserve's in the same repetition; median spread {spread:.0%}.")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
