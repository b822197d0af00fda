"""`convserve classify`: what is on these images?"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterator
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from convserve.cli import common
from convserve.errors import InvalidRequestError

if TYPE_CHECKING:
    from convserve.client import Classification, Client

_FILES_AT_ONCE = 64
"""Files that are read, sent and answered together."""

_POSITION = re.compile(r"images\[(\d+)\]$")


def add_parser(subparsers: argparse._SubParsersAction[Any]) -> None:
    """Add the command."""
    parser = subparsers.add_parser(
        "classify",
        help="classify image files",
        description="Classify image files (PNG, JPEG, BMP, WebP; any size) with a model of a running server. A file"
        " that cannot be classified is reported on stderr and makes the exit status 1; the others are answered.",
    )
    parser.add_argument("files", metavar="FILE", nargs="+", help="image files; - reads one from stdin")
    parser.add_argument("--model", required=True, metavar="NAME", help="the model, such as mnist")
    parser.add_argument("--version", metavar="VERSION", help="version number or alias (default: the server's choice)")
    parser.add_argument(
        "--top-k", metavar="N", type=_positive, default=3, help="classes to show, most probable first (default: 3)"
    )
    parser.add_argument("--explain", action="store_true", help="tell how the batch of each image ran, times in seconds")
    parser.add_argument("--json", action="store_true", help="print one JSON object for each file")
    common.add_connection(parser)
    common.add_credentials(parser)


def run(args: argparse.Namespace) -> int:
    """Classify the files. Returns the exit status."""
    failed = False
    rows: list[tuple[str, ...]] = []
    try:
        with common.connect(args) as client:
            for name, outcome in _classify_all(client, args):
                if isinstance(outcome, str):
                    failed = True
                    print(f"convserve classify: {name}: {outcome}", file=sys.stderr)
                elif args.json:
                    print(json.dumps(_json(name, outcome)), flush=True)
                else:
                    rows.extend(_rows(name, outcome))
    finally:  # what was answered is shown even when the rest fails
        if rows:
            print(common.table(("FILE", "LABEL", "PROBABILITY", "VERSION", "NOTES"), rows))
    return 1 if failed else 0


def _positive(text: str) -> int:
    number = int(text)
    if not 1 <= number < 2**32:
        raise argparse.ArgumentTypeError(f"{text} came; it must be 1 or more")
    return number


def _classify_all(client: Client, args: argparse.Namespace) -> Iterator[tuple[str, Classification | str]]:
    """Each file's name with its classification, or with what is wrong with it, some files at a time."""
    names = iter(args.files)
    while some := list(islice(names, _FILES_AT_ONCE)):
        images: list[tuple[str, bytes]] = []
        for name in some:
            try:
                images.append((name, sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()))
            except OSError as error:
                yield name, f"cannot be read ({error.strerror})"
        yield from _classify(client, args, images)


def _classify(
    client: Client, args: argparse.Namespace, images: list[tuple[str, bytes]]
) -> Iterator[tuple[str, Classification | str]]:
    """Classify some files. One that the server refuses is taken out, and the others are sent again."""
    while images:
        try:
            results = client.classify_batch(
                [content for _, content in images],
                model=args.model,
                version=args.version,
                top_k=args.top_k,
                explain=args.explain,
            )
        except InvalidRequestError as error:
            refused = _refused(error)
            if not refused:
                raise
            for position, reason in refused.items():
                yield images[position][0], reason
            images = [image for position, image in enumerate(images) if position not in refused]
        else:
            for (name, _), result in zip(images, results, strict=True):
                yield name, result
            return


def _refused(error: InvalidRequestError) -> dict[int, str]:
    """The images that an error is about, by position, and why; empty when it is about something else."""
    found = {}
    for violation in error.violations:
        if (match := _POSITION.search(violation.field)) is not None:
            found[int(match[1])] = violation.description
    return found


def _json(name: str, result: Classification) -> dict[str, Any]:
    found: dict[str, Any] = {
        "file": name,
        "predictions": [asdict(prediction) for prediction in result.top],
        "model_version": result.model_version,
        "decoding": result.decoding,
    }
    if result.batch is not None:
        found["batch"] = asdict(result.batch)
    return found


def _rows(name: str, result: Classification) -> Iterator[tuple[str, ...]]:
    """Lines of the table: the file and its best class, then the other classes."""
    notes = list(result.decoding)
    if (batch := result.batch) is not None:
        notes.append(
            f"{batch.request_rows} of {batch.rows} rows in a batch of {batch.padded_rows} ({batch.release_reason}),"
            f" queue {batch.queue_seconds:.4f} s, run {batch.run_seconds:.4f} s, {batch.provider} {batch.variant}"
        )
    first, *others = result.top
    yield name, first.label, f"{first.probability:.2%}", str(result.model_version), ", ".join(notes)
    for other in others:
        yield "", other.label, f"{other.probability:.2%}", "", ""
