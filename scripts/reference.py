"""Write the tables of docs/operations.md that follow from code and results: python -m scripts.reference.

Each stands between `<!-- NAME -->` and `<!-- end of NAME -->`; the text around them is written by hand.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from convserve import config, docstrings
from convserve.config import ModelSettings, Settings

ROOT = Path(__file__).parents[1]
OPERATIONS = ROOT / "docs/operations.md"


def settings() -> str:
    """Every setting, section by section."""
    lines = ["| Flag | TOML key | Default | Meaning |", "|---|---|---|---|"]
    for option in config.options():
        meaning = option.help + (f" One of {', '.join(option.choices)}." if option.choices else "")
        cells = (f"`{option.flag}`", f"`{'.'.join(option.path)}`", _code(option.default_text), _cell(meaning))
        lines.append(f"| {' | '.join(cells)} |")
    lines += [f"| | `{key}` | | {_cell(meaning)} |" for key, meaning in _only_in_the_file()]
    return "\n".join(lines)


def _only_in_the_file() -> Iterator[tuple[str, str]]:
    """Tables, which no flag can hold: key and meaning."""
    flagged = {option.path for option in config.options()}
    for section, prefix in ((Settings, ()), (ModelSettings, ("model",))):
        helps = docstrings.of_fields(section)
        for field in msgspec.structs.fields(section):
            path = (*prefix, field.name)
            nested = isinstance(field.default, msgspec.Struct)
            if path not in flagged and not nested:
                yield ".".join(path), helps[field.name]


def result_file(device: str) -> Path:
    """Where benchmarks.tuning leaves its result."""
    return ROOT / "benchmarks/results" / ("tuning.json" if device == "cpu" else f"tuning-{device}.json")


def tuning(device: str) -> str:
    """Images per second and p99 by batching settings and requests in flight."""
    path = result_file(device)
    if not path.exists():
        return "Not measured yet."
    result: dict[str, Any] = json.loads(path.read_text())
    where = result["conditions"]
    loads = list(next(iter(result["choices"].values())))
    runs = next(iter(next(iter(result["choices"].values())).values()))["requests_per_second"]["runs"]
    lines = ["| in flight | " + " | ".join(loads) + " |", "|---|" + "---|" * len(loads)]
    for name, points in result["choices"].items():
        medians = [{key: value["median"] for key, value in points[load].items()} for load in loads]
        cells = [f"{one['requests_per_second']:,.0f}/s, {one['p99_seconds'] * 1e3:.1f} ms" for one in medians]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    conditions = (
        f"Images per second and p99 latency at the load generator; `{result['model']['name']}` version"
        f" {result['model']['version']}, single packed images, closed loop over loopback; median of {runs} runs on"
        f" {where['date']}, {where['cpu'].strip()}, server and load generator on a core each, load average"
        f" {where['load_average_before']:.1f} at the start, grpcio {where['grpcio']}, onnxruntime"
        f" {where['onnxruntime']}, commit {where['commit']} ([result](../benchmarks/results/{path.name}))."
    )
    image = f"docs/images/tuning-{device}.svg"
    if (ROOT / image).exists():
        lines += ["", f"![p99 latency against images per second by batching settings]({image})".replace("(docs/", "(")]
    return "\n".join(lines) + "\n\n" + conditions


def write(text: str) -> str:
    """The document with its tables made anew."""
    for name, table in (("settings", settings()), ("tuning cpu", tuning("cpu")), ("tuning cuda", tuning("cuda"))):
        block = re.compile(rf"(<!-- {name} -->\n).*?(<!-- end of {name} -->)", re.DOTALL)
        if not block.search(text):
            raise ValueError(f"{OPERATIONS} has no place for {name!r}")
        text = block.sub(lambda found, table=table: found[1] + table + "\n" + found[2], text)  # type: ignore[misc]
    return text


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _code(text: str) -> str:
    return f"`{text}`" if text else ""


if __name__ == "__main__":
    OPERATIONS.write_text(write(OPERATIONS.read_text()))
