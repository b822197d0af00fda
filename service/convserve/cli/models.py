"""`convserve models`: what a server serves."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from convserve.cli import common

if TYPE_CHECKING:
    from convserve.client import ModelInfo, VersionInfo


def add_parser(subparsers: argparse._SubParsersAction[Any]) -> None:
    """Add the command."""
    parser = subparsers.add_parser(
        "models",
        help="list the models of a server",
        description="List the models of a server with all their versions, those that failed to load included.",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object for each model, with all details")
    common.add_connection(parser)
    common.add_credentials(parser)


def run(args: argparse.Namespace) -> int:
    """List the models. Returns the exit status."""
    with common.connect(args) as client:
        models = client.models()
    if args.json:
        for model in models:
            print(json.dumps(asdict(model)))
        return 0
    header = ("MODEL", "VERSION", "STATE", "INPUT", "CLASSES", "ACCURACY", "DATASET", "PROVIDER")
    print(common.table(header, [_row(model, version) for model in models for version in model.versions]))
    for model in models:
        for version in model.versions:
            if version.reason:
                print(f"{model.name} version {version.version} {version.state}: {version.reason}")
    return 0


def _row(model: ModelInfo, version: VersionInfo) -> tuple[str, ...]:
    names = [alias for alias, number in model.aliases.items() if number == version.version]
    if version.version == model.default_version:
        names.insert(0, "default")
    accuracy = version.metrics.get("accuracy")
    return (
        model.name,
        f"{version.version} ({', '.join(names)})" if names else str(version.version),
        version.state,
        "x".join(map(str, version.input_shape)) or "-",
        str(len(version.labels) or "-"),
        "-" if accuracy is None else f"{accuracy:.2%}",
        version.dataset or "-",
        version.provider or "-",
    )
