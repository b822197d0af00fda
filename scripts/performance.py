"""Write the tables of docs/performance.md from the files in benchmarks/results: python -m scripts.performance.

Each stands between `<!-- NAME -->` and `<!-- end of NAME -->`; the text around them is written by hand.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs/performance.md"
RESULTS = ROOT / "benchmarks/results"

Result: TypeAlias = dict[str, Any]


def read(name: str) -> Result | None:
    """A result file, if it is there."""
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else None


def conditions(result: Result, name: str) -> str:
    """Where and when, in one line."""
    where = result["conditions"]
    return (
        f"{where['date']}, {where['cpu'].strip()}, {where['cores']} cores, load average"
        f" {where['load_average_before']:.1f} at the start, Python {where['python']},"
        f" grpcio {where['grpcio']}, onnxruntime {where['onnxruntime']}, commit"
        f" {where['commit']} ([result](../benchmarks/results/{name}.json))."
    )


def table(head: list[str], rows: list[list[str]]) -> str:
    """A table; the first column is text."""
    lines = ["| " + " | ".join(head) + " |", "|---" + "|---:" * (len(head) - 1) + "|"]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def throughput() -> Iterator[str]:
    """One table for each model."""
    for model in ("light", "heavy"):
        result = read(f"throughput-{model}")
        if result is None:
            continue
        raw = {int(size): one["median"] for size, one in result["raw_onnxruntime_images_per_second"].items()}
        points = list(next(iter(result["servers"].values()))["points"])
        rows = []
        for name, server in result["servers"].items():
            cells = [name]
            for point in points:
                row = server["points"][point]
                share = row["of_raw_best"] if "batch" in point else row["of_raw_one_by_one"]
                cells.append(
                    f"**{share['median']:.2f}** · {row['images_per_second']['median']:,.0f}"
                    f" · {row['p50_seconds']['median'] * 1e3:.2f} ms"
                    f" · {row['server_cpu_seconds_per_request']['median'] * 1e6:,.0f} µs"
                )
            rows.append(cells)
        spreads = [
            row["requests_per_second"]["spread"] for one in result["servers"].values() for row in one["points"].values()
        ]
        runs = result["raw_onnxruntime_images_per_second"]["1"]["runs"]
        yield f"**`{model}`**: of raw · images/s · p50 · CPU time of the server for a request"
        yield table(["", *points], rows)
        yield (
            f"Raw onnxruntime: {raw[1]:,.0f} images/s one by one, {max(raw.values()):,.0f} in its best batch."
            f" Median of {runs} repetitions, spread {sorted(spreads)[len(spreads) // 2]:.0%}"
            f" (largest {max(spreads):.0%})."
            f" {conditions(result, f'throughput-{model}')}"
        )


def cost() -> Iterator[str]:
    """Where a request's CPU time goes, now and before."""
    result = read("cost")
    if result is None:
        return
    versions = result["versions"]
    others = ("requests_per_second", "microseconds", "context_switches")
    rows = [
        [part, *(f"{one[part]['median']:.0f} µs" for one in versions.values())]
        for part in next(iter(versions.values()))
        if part not in others
    ]
    rows.append(["**together**", *(f"**{one['microseconds']['median']:.0f} µs**" for one in versions.values())])
    rows.append(["changes of thread", *(f"{one['context_switches']['median']:.1f}" for one in versions.values())])
    rows.append(["requests/s", *(f"{one['requests_per_second']['median']:,.0f}" for one in versions.values())])
    yield "CPU time of the server for one request of `light`, 64 in flight, on one core, by library."
    yield table(["", *versions], rows)
    runs = [one["microseconds"] for one in versions.values()]
    yield (
        f"Median of {runs[0]['runs']:.0f} repetitions, spread {max(one['spread'] for one in runs):.0%} at most."
        f" {conditions(result, 'cost')}"
    )


def peers() -> Iterator[str]:
    """One table for each model: convserve's requests per second over each peer's."""
    for path in sorted(RESULTS.glob("peers-*.json")):
        result = json.loads(path.read_text())
        points = list(next(iter(result["servers"].values()))["points"])
        rows = []
        for name, server in result["servers"].items():
            cells = [name]
            for point in points:
                row = server["points"][point]
                rate = f"{row['requests_per_second']['median']:,.0f}/s · {row['p50_seconds']['median'] * 1e3:.2f} ms"
                ratio = row.get("convserve_times_as_many")
                cells.append(f"**×{ratio['median']:.2f}** · {rate}" if ratio else rate)
            process = {key: one["median"] for key, one in server["process"].items()}
            cells += [
                f"{process['seconds_to_ready']:.2f} s",
                f"{process['idle_mb']:.0f} → {process['after_mb']:.0f} MB",
            ]
            rows.append(cells)
        yield (
            f"**{result['model'].get('preset') or result['model']['name']}**, Open Inference Protocol unless the name"
            " says otherwise. ×: requests convserve answers for one of the peer's, from pairs of the same repetition;"
            " then the peer's requests/s and p50."
        )
        yield table(["", *points, "ready", "memory, idle → after"], rows)
        if result["not_measured"]:
            missing = "; ".join(f"{name} ({reason})" for name, reason in result["not_measured"].items())
            yield f"Not measured: {missing}."
        yield conditions(result, path.stem)


WAYS = ("single", "coalesced")


def coalescing() -> Iterator[str]:
    """How many times the throughput of single calls."""
    result = read("coalescing")
    if result is None:
        return
    heads = ["coalesced over single", *WAYS, *(f"{way}: CPU an image, client + server" for way in WAYS)]
    for place, measured in result["places"].items():
        rows = []
        for model, found in measured["models"].items():
            for load, rate in found["images_per_second"].items():
                gain = rate["coalesced_over_single"]
                rows.append(
                    [
                        f"{model}, {load}",
                        f"**×{gain['median']:.2f}** (spread {gain['spread']:.0%})",
                        *(f"{rate[way]['median']:,.0f}/s" for way in WAYS),
                        *(cpu_per_image(rate[way]) for way in WAYS),
                    ]
                )
        yield f"Client and server: {place}."
        yield table(["callers in one process", *heads], rows)
        lone = [
            f"{model}, a lone {caller}: {times['coalesced_over_single']['median'] - 1:+.1%}"
            f" (spread {times['coalesced_over_single']['spread']:.1%})"
            for model, found in measured["models"].items()
            for caller, times in found["lone_caller_p50_seconds"].items()
        ]
        yield f"What coalescing adds to the p50 of a caller who is alone: {'; '.join(lone)}."
    yield conditions(result, "coalescing")


def cpu_per_image(rate: dict[str, Any]) -> str:
    """What an image costs on either side."""
    return f"{rate['client_cpu_us_per_image']:.0f} + {rate['server_cpu_us_per_image']:.0f} µs"


def stress() -> Iterator[str]:
    """Overload, fairness, swaps, drains, soak: a line each."""
    if result := read("overload"):
        factors = list(next(iter(result["servers"].values()))["goodput_of_capacity"])
        rows = [
            [name, *(f"{one['goodput_of_capacity'][factor]['median']:.2f}" for factor in factors)]
            for name, one in result["servers"].items()
        ]
        yield (
            f"**Overload.** Answers within {result['deadline_seconds'] * 1e3:.0f} ms as a share of what the server"
            f" answers when saturated; requests of {result['images_per_request']} images, Poisson arrivals at a"
            " multiple of that."
        )
        yield table(["offered", *(f"{factor}×" for factor in factors)], rows)
        yield conditions(result, "overload")
    if result := read("fairness"):
        alone, flooded, ratio = result["alone"], result["flooded"], result["p99_ratio"]
        yield (
            f"**Fairness.** {result['what']}: p99 {alone['p99_seconds']['median'] * 1e3:.1f} ms alone,"
            f" {flooded['p99_seconds']['median'] * 1e3:.1f} ms flooded, **{ratio['median']:.1f} times** (spread"
            f" {ratio['spread']:.0%}). {conditions(result, 'fairness')}"
        )
    if result := read("swap"):
        ratio = result["p99_ratio"]
        yield (
            f"**Swaps.** p99 while versions of {result['model']['version_bytes'] / 1e6:.0f} MB load and unload over p99"
            f" without, at {result['requests_per_second']:.0f} requests/s: **{ratio['median']:.2f}** (spread"
            f" {ratio['spread']:.0%}). {conditions(result, 'swap')}"
        )
    if result := read("drain"):
        runs = [one for one in result.values() if isinstance(one, dict) and "runs_without_loss" in one]
        yield (
            f"**Drains under load.** {sum(one['runs_without_loss'] for one in runs)} of"
            f" {sum(one['runs'] for one in runs)} without a lost call"
            f" ({sum(one['calls_answered'] for one in runs):,} answered). {conditions(result, 'drain')}"
        )
    for name in ("soak", "soak-without-kills"):
        if result := read(name):
            yield (
                f"**Soak.** {result['minutes']:.1f} minutes with {result['swaps']} swaps and {result['workers_killed']}"
                f" workers killed: {result['outcomes']['answered']:,} calls answered,"
                f" {sum(result['lost'].values())} lost, memory {result['memory_growth']:+.1%} from the second to the"
                " last quarter,"
                f" {_descriptors(result)}. {conditions(result, name)}"
            )


def _descriptors(result: Result) -> str:
    """How many file descriptors the workers held, early and late."""
    held = [sample["worker_fds"] for sample in result["samples"]]
    return f"{held[len(held) // 4]} file descriptors a quarter of the way through and {held[-1]} at the end"


def process() -> Iterator[str]:
    """Time to ready and resident memory."""
    rows = []
    for model in ("light", "heavy"):
        result = read(f"throughput-{model}")
        for name, server in result["servers"].items() if result else []:
            one = {key: value["median"] for key, value in server["process"].items()}
            cells = [f"{one['seconds_to_ready']:.2f} s", f"{one['idle_mb']:.0f} MB", f"{one['after_mb']:.0f} MB"]
            rows.append([f"{name}, {model}", *cells])
    if rows:
        yield table(["", "exec to ready", "memory, idle", "memory, after load"], rows)
        yield "One core, the model alone in the repository, in the runs of the first table."


def workers() -> Iterator[str]:
    """How throughput grows with workers, what one more costs, and whether that is what is wanted."""
    result = read("workers")
    if result is None:
        return
    numbers, targets = list(result["scaling"]), result["targets"]
    rows = []
    for number in numbers:
        own, share = result["scaling"][number], result["of_n_times_one"][number]
        rows.append(
            [
                number,
                f"{own['images_per_second']['median']:,.0f}/s",
                f"{own['client_cores_busy']['median']:.2f}" + ", shared" * result["client_shares_cores"][number],
                f"{own['images_per_second_less_client']['median']:,.0f}/s",
                f"{own['least_busy_worker']['median']:.2f} to {own['busiest_worker']['median']:.2f}",
                f"{share['measured']['median']:.2f}",
                f"**{share['less_client']['median']:.2f}** (spread {share['less_client']['spread']:.0%})",
                f"{share['raw']['median']:.2f}",
            ]
        )
    yield (
        f"**Scaling.** Batches of {result['rows_of_a_batch']} images, a core for each worker. *Less client*: with the"
        " client's CPU time taken off where it shares the workers' cores. The last three columns are rates over N times"
        " the rate of one, of the same repetition: of all that was measured, less the client, and of raw onnxruntime."
    )
    head = ["workers", "images/s", "cores the client uses", "less client", "of its core, a worker uses"]
    yield table([*head, "of N times one", "less client", "raw onnxruntime"], rows)
    yield _single_calls(result["single_calls"], result["spread_of_calls"])
    rows = [
        [number, *(f"{one[key]['median']:.0f}" if key in one else "" for key in _MEMORY)]
        for number, one in result["memory"].items()
    ]
    yield "**Memory**, in MB, with both bundled models; of several workers, the largest."
    yield table(["workers", *_MEMORY.values()], rows)
    ready = "; ".join(
        f"{name}: {one['seconds']['median']:.2f} s"
        + (f" (CPU time {one['cpu_seconds']['median']:.2f} s)" if "cpu_seconds" in one else "")
        for name, one in result["ready"].items()
    )
    yield f"**From exec to ready** with both bundled models, by workers and cores: {ready}."
    most = numbers[-1]
    one_worker = f"1 on {result['cores']} core{'s' if result['cores'] > 1 else ''}"
    wanted = [
        (f"{most} workers, of {most} times one", "least", "scaling", result["of_n_times_one"][most]["less_client"], ""),
        (
            "unshared by a further worker, after load",
            "most",
            "further_worker_mb",
            _of_many(result, "unshared_mb"),
            " MB",
        ),
        ("resident, one worker, after load", "most", "one_worker_mb", result["memory"]["1"]["resident_mb"], " MB"),
        (f"exec to ready, {one_worker}", "most", "ready_seconds", result["ready"][one_worker]["seconds"], " s"),
    ]
    rows = []
    for name, bound, key, found, unit in wanted:
        met = found["median"] >= targets[key] if bound == "least" else found["median"] <= targets[key]
        rows.append(
            [name, f"at {bound} {targets[key]:g}{unit}", f"{found['median']:.3g}{unit}", "met" if met else "**missed**"]
        )
    yield table(["target", "wanted", "found", ""], rows)
    yield conditions(result, "workers")


_MEMORY = {
    "resident_idle_mb": "resident, idle",
    "resident_mb": "resident, after load",
    "unshared_idle_mb": "unshared, idle",
    "unshared_mb": "unshared, after load",
    "supervisor_resident_mb": "supervisor, resident",
    "supervisor_unshared_mb": "supervisor, unshared",
}


def _of_many(result: Result, key: str) -> dict[str, float]:
    """A figure of the run with most workers."""
    found: dict[str, float] = list(result["memory"].values())[-1][key]
    return found


def _single_calls(calls: Result, spread: Result) -> str:
    """What dividing single calls costs, and how evenly they fall."""
    costs = "; ".join(
        f"{number}: {one['server_cpu_seconds_per_request']['median'] * 1e6:,.0f} µs"
        f" ({one['requests_per_second']['median']:,.0f}/s)"
        for number, one in calls.items()
    )
    shares = sorted(spread["largest_share"])
    return (
        f"**Single calls.** CPU time of the server for a call, by workers, all on one core under the same load:"
        f" {costs}. That is what dividing the work costs, in smaller batches and changes of process; what cores do to"
        f" each other it does not show. Of {len(shares)} new clients with {spread['connections']} connections each,"
        f" {spread['clients_that_missed_a_worker']} reached fewer than all {spread['workers']} workers; the busiest"
        f" worker had {shares[len(shares) // 2]:.0%} of a client's calls in the middle case, {shares[-1]:.0%} at most."
        f" Together: {' and '.join(f'{one:,}' for one in spread['calls'])} calls."
    )


def gaps() -> Iterator[str]:
    """What has no figure here."""
    missing = []
    if not list(RESULTS.glob("*cuda*.json")):
        missing.append(
            "a GPU: no figure on this page is of one; `make test-gpu` and `benchmarks.tuning --device cuda` run there"
        )
    cores = (read("workers") or {"cores": 0})["cores"]
    missing.append(f"{f'more than {cores}' if cores else 'several'} cores: how throughput grows with `--workers`")
    missing.append("a network: all traffic is loopback")
    yield "\n".join(f"- {one}" for one in missing)


TABLES: dict[str, Callable[[], Iterator[str]]] = {
    "throughput": throughput,
    "cost": cost,
    "peers": peers,
    "coalescing": coalescing,
    "stress": stress,
    "process": process,
    "workers": workers,
    "gaps": gaps,
}


def write(text: str) -> str:
    """The page with its tables made anew."""
    for name, make in TABLES.items():
        block = re.compile(rf"(<!-- {name} -->\n).*?(<!-- end of {name} -->)", re.DOTALL)
        if not block.search(text):
            raise ValueError(f"{PAGE} has no place for {name!r}")
        content = "\n\n".join(make()) or "Not measured yet."
        text = block.sub(lambda found, content=content: found[1] + content + "\n" + found[2], text)  # type: ignore[misc]
    return text


if __name__ == "__main__":
    PAGE.write_text(write(PAGE.read_text()))
