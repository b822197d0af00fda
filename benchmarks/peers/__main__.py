"""Requests per second and latency of convserve and its peers on one core, all asked for the same images.

Server and load generator are pinned to a core each. Everything alternates, several times; the ratios to convserve and
to raw onnxruntime of the same repetition are what can be compared between machines. Peers that are not installed are
named as not measured.

    python -m benchmarks.peers --repetitions 3
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

from benchmarks import common, throughput
from benchmarks.common import Load
from benchmarks.peers.catalogue import PEERS, Peer
from benchmarks.peers.model import Model, newest
from benchmarks.peers.process import running

POINTS = {
    "1 in flight": (1, Load(1, 1, 1_500)),
    "4 in flight": (1, Load(4, 1, 4_000)),
    "16 in flight": (1, Load(4, 4, 6_000)),
    "64 in flight": (1, Load(4, 16, 8_000)),
    "batch 32, 4 in flight": (32, Load(4, 1, 800)),
}
OURS = PEERS[0].name

Row = dict[str, float]


def measure(peer: Peer, model: Model, share: float, limits: Row) -> tuple[dict[str, Row], Row]:
    """Measure one peer once. Returns its figures by point, and those of its process."""
    points: dict[str, Row] = {}
    with running(peer, model) as server:
        peer.dialect.check(server.port, model)
        process = {"seconds_to_ready": server.seconds_to_ready, "idle_mb": server.memory_mb()}
        for point, (images, full) in POINTS.items():
            load = Load(full.connections, full.streams, max(int(full.requests * share * peer.share), 64))
            warm_up = Load(load.connections, load.streams, max(load.requests // 5, 64))
            peer.dialect.load(server.port, model, images, warm_up)
            used = server.cpu_seconds()
            row = peer.dialect.load(server.port, model, images, load)
            row["server_cpu_seconds_per_request"] = (server.cpu_seconds() - used) / load.requests
            row["of_raw"] = row["requests_per_second"] * images / limits[str(images)]
            points[point] = row
            print(f"  {peer.name:28} {point:22} {row['requests_per_second']:8.0f}/s", flush=True)
        peer.dialect.check(server.port, model)
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
    parser.add_argument("--show", type=Path, metavar="FILE", help="print the table of a result, and measure nothing")
    parser.add_argument("--only", nargs="+", choices=[peer.name for peer in PEERS], help="measure these alone")
    args = parser.parse_args()
    if args.show:
        print(table(json.loads(args.show.read_text())))
        return
    common.need("h2load", "nghttp2-client")
    model = newest(args.model_repository, args.model)
    manifest = model.manifest
    chosen = [peer for peer in PEERS if not args.only or peer.name in args.only]
    absent = {peer.name: peer.missing for peer in chosen if peer.missing}
    for name, reason in absent.items():
        print(f"not measured: {name} ({reason})")
    before = common.conditions()
    runs: dict[str, list[tuple[dict[str, Row], Row]]] = {peer.name: [] for peer in chosen if not peer.missing}
    limits = []
    for repetition in range(args.repetitions):
        limits.append(throughput.raw(model.directory))
        print(f"repetition {repetition + 1}: raw onnxruntime {limits[-1]['1']:.0f} images/s one by one", flush=True)
        for peer in chosen:
            if peer.name not in runs:
                continue
            try:
                runs[peer.name].append(measure(peer, model, args.share, limits[-1]))
            except RuntimeError as error:
                if peer.name == OURS:
                    raise
                del runs[peer.name]
                absent[peer.name] = f"failed: {str(error).splitlines()[0]}"
                print(f"not measured: {peer.name} ({error})")
    result: dict[str, Any] = {
        "what": __doc__.splitlines()[0] if __doc__ else "",
        "model": {
            "name": args.model,
            "preset": manifest.training.preset,
            "digest": model.digest,
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
