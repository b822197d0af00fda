"""Arguments of every command."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import get_args

from convtrain.backend import Backend
from convtrain.cli import artifacts, catalogue, doctor, options, steps, table
from convtrain.config import Precision


def make_parser() -> argparse.ArgumentParser:
    """Make the parser. Each command's function is in `command` of the result."""
    parser = argparse.ArgumentParser(
        prog="convtrain",
        description="Train small image classifiers, prove their exports, publish versions.",
        epilog="`convtrain run <preset>` does it all: train, evaluate, export with the parity gate, publish.",
    )
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    def add(name: str, summary: str, function: object) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=summary, description=summary)
        command.set_defaults(command=function)
        command.add_argument("--json", action="store_true", help="print one JSON document on stdout")
        return command

    add("presets", "List the presets.", catalogue.presets)

    describe = add(
        "describe", "Show a preset's layers: shapes, parameters, multiply-adds, receptive field.", catalogue.describe
    )
    describe.add_argument("preset", help="name of the preset, or a TOML file that holds one")

    add("options", "List every key of a preset file.", options.options)
    add("doctor", "Show what training would use here: libraries, devices, memory.", doctor.doctor)

    train = add("train", "Train a preset into a run directory.", steps.train)
    _add_training(train)
    train.add_argument(
        "--backend",
        choices=get_args(Backend),
        help="what Keras computes with; jax needs no TensorFlow, whose machine then does the rest: `convtrain run "
        "--resume RUN` (default: tensorflow, or what the run began with)",
    )

    evaluate = add("evaluate", "Measure a trained run on the test split.", steps.evaluate)
    _add_run(evaluate)

    export = add("export", "Export a trained run as SavedModel and ONNX, proved on the test split.", steps.export)
    _add_run(export)

    quantize = add(
        "quantize",
        "Try int8 and an optimised graph; those measured faster here, and as right, are published as variants.",
        steps.quantize,
    )
    _add_run(quantize)

    report = add("report", "Write report.html and report.json of an exported run.", steps.report)
    _add_run(report)

    publish = add("publish", "Publish an exported run as the next version of its model.", steps.publish)
    _add_run(publish)
    _add_repository(publish)

    run = add("run", "Train, evaluate, export, prove, report and publish.", steps.run)
    _add_training(run)
    run.set_defaults(backend="tensorflow")  # what the other steps need
    _add_repository(run)
    run.add_argument(
        "--variants",
        action="store_true",
        help="try int8 and an optimised graph too; what is measured faster on this machine is published with it",
    )

    run.add_argument(
        "--serve",
        action="store_true",
        help="then serve the model repository with `convserve serve` until Ctrl-C; CONVSERVE_* variables set it up",
    )

    compare = add("table", "Compare all published versions, with latencies measured here.", table.table)
    compare.add_argument(
        "repository", type=Path, nargs="*", default=[Path("models")], help="directories of models (default: models)"
    )
    compare.add_argument(
        "--write", type=Path, metavar="FILE", help="put the table into a Markdown file, between its marks for it"
    )

    inspect = add("inspect", "Verify a published version and show what it is, and what it sees.", artifacts.inspect)
    inspect.add_argument("version", type=Path, help="version directory, such as models/mnist/1")
    inspect.add_argument("image", type=Path, nargs="?", help="image file to draw the feature maps of")
    inspect.add_argument(
        "--output",
        type=Path,
        metavar="FILE",
        help="where the drawing goes, SVG (default: <image>-features.svg in this directory)",
    )
    return parser


def _add_training(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "preset",
        nargs="?",
        help="name of the preset, see `convtrain presets`, or a TOML file, see `convtrain options` (default: images, "
        "for the folder that --data-dir names)",
    )
    place = parser.add_argument_group("where")
    place.add_argument(
        "--run-dir", type=Path, metavar="RUN", help="directory for this run (default: runs/<preset>-<time>)"
    )
    place.add_argument("--resume", type=Path, metavar="RUN", help="go on with a run that was cut off")
    data = parser.add_argument_group("data")
    data.add_argument(
        "--data-dir",
        type=Path,
        metavar="DIR",
        help="local data: MNIST's IDX files or mnist.npz, CIFAR-10's archive, or a folder with <label>/…, or with "
        "train/<label>/… and test/<label>/… (default: the official files are downloaded)",
    )
    data.add_argument("--dataset", choices=("mnist", "cifar10", "folder"), help="kind of data (default: the preset's)")
    data.add_argument(
        "--image-size",
        metavar="PIXELS",
        help="HEIGHTxWIDTH or one number, for --dataset folder (default: the preset's)",
    )
    data.add_argument(
        "--channels", type=int, choices=(1, 3), help="1: grey, 3: colour; for --dataset folder (default: the preset's)"
    )
    data.add_argument(
        "--limit", type=_positive, metavar="N", help="keep N images of each split, for quick tries (default: all)"
    )
    data.add_argument(
        "--skip-digest-check",
        action="store_true",
        default=None,
        help="take other content than the official one; the manifest says so",
    )
    settings = parser.add_argument_group("settings (default: the preset's)")
    settings.add_argument("--model", metavar="NAME", help="name to publish under")
    settings.add_argument(
        "--epochs", type=_positive, metavar="N", help="times to go through the training images, at most"
    )
    settings.add_argument("--batch-size", type=_positive, metavar="N", help="images for each step")
    settings.add_argument("--learning-rate", type=float, metavar="X", help="step size of the optimizer")
    settings.add_argument(
        "--validation-fraction", type=float, metavar="X", help="share of the training split to choose by, 0 to 1"
    )
    settings.add_argument(
        "--precision",
        choices=get_args(Precision),
        help="what layers compute in while training; mixed_bfloat16 is faster where the device has bfloat16, and "
        "what is exported is float32 either way",
    )
    settings.add_argument("--seed", type=int, metavar="N", help="seed of weights, order of images and validation split")


def _add_run(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", type=Path, help="run directory of `convtrain train`")
    parser.add_argument(
        "--data-dir", type=Path, metavar="DIR", help="local data, where they have moved (default: the run's)"
    )


def _add_repository(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model-repository",
        type=Path,
        default=Path("models"),
        metavar="DIR",
        help="directory of models; the version goes to <DIR>/<model>/<next number> (default: models)",
    )
    parser.add_argument(
        "--sign",
        type=Path,
        metavar="KEY",
        help="sign the version with this Ed25519 private key, a PEM file, for servers with --require-signature",
    )


def _positive(text: str) -> int:
    if not text.isascii() or not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 up")
    return int(text)
