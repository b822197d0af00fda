"""`convserve doctor`: what is here, and what a server would make of it."""

from __future__ import annotations

import argparse
import json
import os
from typing import Any

from convserve.cli import common
from convserve.errors import RuntimeNotInstalledError


def add_parser(subparsers: argparse._SubParsersAction[Any]) -> None:
    """Add the command."""
    parser = subparsers.add_parser(
        "doctor",
        help="examine this installation, machine and model repository",
        description="Show versions, the cores and memory that may be used and how a server would share them out, what"
        " onnxruntime can compute on, and whether every model file is the one published. Takes the settings of"
        " `convserve serve`. Exit status 1 when there are problems.",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    common.add_settings(parser)


def run(args: argparse.Namespace) -> int:
    """Examine and print. Returns the exit status."""
    try:
        from convserve import config, doctor
    except ModuleNotFoundError as error:
        raise RuntimeNotInstalledError(
            f"{error.name} is not installed; install the server with: pip install 'convserve[server]'"
        ) from error
    report = doctor.examine(config.load(vars(args), os.environ))
    if args.json:
        print(json.dumps(report))
    else:
        _print(report)
    return 1 if report["problems"] else 0


def _print(report: dict[str, Any]) -> None:
    found, plan = report["host"], report["plan"]
    print(f"convserve {report['convserve']}, Python {report['python']}, {report['system']}")
    print("packages   " + ", ".join(f"{name} {text}" for name, text in report["packages"].items() if text))
    quota = f"quota {found['quota_cores']:g}" if found["quota_cores"] is not None else "no quota"
    print(f"cores      {found['host_cores']} in the machine, {found['affinity_cores']} allowed, {quota}")
    memory = found["memory_bytes"]
    print(f"memory     {f'{memory / 2**20:.0f} MiB allowed' if memory else 'no limit'}")
    print(f"decision   {plan['workers']} worker(s), {plan['intra_op_threads']} thread(s) for a batch, no spinning")
    print(f"providers  {', '.join(report['providers']) or 'none'}")
    for model, versions in report["models"].items():
        for number, entry in versions.items():
            accuracy = entry.get("metrics", {}).get("accuracy")
            figures = f", accuracy {accuracy:.4f} on its test split" if accuracy is not None else ""
            served = "served" if entry["wanted"] else "not wanted by the version policy"
            print(f"model      {model} version {number}: files {entry['files']}{figures}; {served}")
    for problem in report["problems"]:
        print(f"PROBLEM    {problem}")
    if not report["problems"]:
        print("no problems found")
