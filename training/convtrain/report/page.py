"""The page: drawings and tables around the figures of a report. One file, nothing is loaded from elsewhere."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from convserve.arrays import Images
from convtrain import feature_maps
from convtrain.report import figures
from convtrain.report.content import Report

WIDE = 12
"""Classes whose confusion fits into half of the page."""
STYLE = """
:root { color-scheme: light; }
body { font: 15px/1.5 Inter, "Segoe UI", "Helvetica Neue", Arial, sans-serif; color: #1d2733; background: #f4f6f8;
  margin: 0; }
main { max-width: 1120px; margin: 0 auto; padding: 28px 20px 60px; }
h1 { font-size: 25px; margin: 0; } h2 { font-size: 17px; margin: 0 0 10px; } p { margin: 4px 0 10px; }
.quiet { color: #66727f; } code { font: 13px/1.45 ui-monospace, Menlo, Consolas, monospace; overflow-wrap: anywhere; }
pre { background: #1d2733; color: #e9eef3; padding: 10px 14px; border-radius: 8px; white-space: pre-wrap; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 12px; margin: 18px 0; }
.card, section { background: #fff; border: 1px solid #e4e8ec; border-radius: 10px; }
.card { padding: 12px 16px; } .card b { display: block; font-size: 23px; font-variant-numeric: tabular-nums; }
section { padding: 18px 20px; margin: 0 0 16px; overflow-x: auto; }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(420px, 1fr)); gap: 16px; align-items: start; }
@media (min-width: 960px) { .uneven { grid-template-columns: minmax(0, 2fr) minmax(0, 3fr); } }
svg { max-width: 100%; height: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 14px; }
th, td { text-align: right; padding: 4px 10px; border-bottom: 1px solid #e4e8ec; }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
th { color: #66727f; font-weight: 500; }
"""


def render(report: Report, images: Images, onnx_path: Path) -> str:
    """Make the page.

    Args:
        report: the figures.
        images: the test split, uint8 [N, H, W, C], for the pictures.
        onnx_path: the exported file, for filters and feature maps.
    """
    evaluation, data = report.evaluation, report.dataset
    sizes = (
        f"{data.train_images:,} images to train, {data.validation_images:,} to choose by, {data.test_images:,} to test"
    )
    about = f"{report.summary}. {data.name}: {sizes}. {data.note} Seed {report.seed}, one run, "
    parts = [
        f"<h1>{_text(report.preset)}</h1>",
        f"<p class=quiet>{_text(about)}{report.history.seconds:,.0f} s of training.</p>",
        _cards(report),
        _section("Training", figures.curves(report.history)),
        "<div>" if len(report.labels) > WIDE else "<div class=pair>",
        _section(
            "Confusion on the test split",
            "<p class=quiet>Rows are what images are, columns what the model says.</p>"
            + figures.confusion(evaluation.confusion, report.labels),
        ),
        _section(
            "Do probabilities mean what they say?",
            figures.reliability(
                report.reliability_uncalibrated, report.reliability, evaluation.ece_uncalibrated, evaluation.ece
            )
            + f"<p class=quiet>{_calibration(report)}</p>",
        ),
        '</div><div class="pair uneven">',
        _section("Accuracy by class", figures.per_class(evaluation.per_class_accuracy, evaluation.accuracy)),
        _layers(report),
        "</div>",
        _mistakes(report, images),
        _inside(images, onnx_path),
        _proofs(report),
        _section(
            "How it was made",
            f"<pre>{_text(report.command)}</pre>"
            + _table(("", ""), ((name, f"<code>{_text(value)}</code>") for name, value in _made(report).items())),
        ),
    ]
    body = "\n".join(parts)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{_text(report.preset)}: report</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{STYLE}</style></head>\n'
        f"<body><main>\n{body}\n<p class=quiet>Written by convtrain, {_text(report.created)}.</p>"
        "</main></body></html>\n"
    )


def _cards(report: Report) -> str:
    evaluation = report.evaluation
    found = {
        "test accuracy": f"{100 * evaluation.accuracy:.2f} %",
        f"mistakes of {evaluation.images:,}": f"{evaluation.images - evaluation.correct:,}",
        "loss (nats)": f"{evaluation.loss:.4f}",
        "calibration error": f"{100 * evaluation.ece:.2f} %",
        "parameters": f"{report.parameters:,}",
        "multiply-adds": _large(report.multiply_adds),
    }
    cards = "".join(
        f"<div class=card><b>{value}</b><span class=quiet>{name}</span></div>" for name, value in found.items()
    )
    return f"<div class=cards>{cards}</div>"


def _calibration(report: Report) -> str:
    found = report.calibration
    if found.ece_before is None or found.ece_after is None:
        return "There was no validation split to choose a temperature on, so it is 1."
    return (
        f"Temperature {found.temperature:g}, chosen on {found.images:,} validation images, where it took the expected "
        f"calibration error from {100 * found.ece_before:.2f} % to {100 * found.ece_after:.2f} %. The drawing shows "
        "the test split; a line through a point spans what chance allows, 95 of 100 times."
    )


def _mistakes(report: Report, images: Images) -> str:
    if not report.mistakes:
        return _section("Worst mistakes", "<p>None: every test image is classified rightly.</p>")
    return _section(
        "Worst mistakes",
        "<p class=quiet>Wrong answers the model is most sure of: in red what it says, below what the label says.</p>"
        + figures.mistakes(report.mistakes, images),
    )


def _inside(images: Images, onnx_path: Path) -> str:
    kernels = feature_maps.first_filters(onnx_path)
    if kernels is None:
        return ""
    # Of the first images the one with most contrast: a picture of nothing much shows nothing much.
    sample = images[int(np.argmax(images[:100].std(axis=(1, 2, 3))))]
    found = feature_maps.compute(onnx_path, sample[None])
    return _section(
        "What the first layers see",
        f"<p class=quiet>{_count(len(kernels))} of the first convolution, {kernels.shape[1]}×{kernels.shape[2]} pixels "
        "each.</p>"
        + figures.filters(kernels)
        + "<p class=quiet>What the first convolutions make of an image of the test split.</p>"
        + figures.feature_maps(sample, found),
    )


def _made(report: Report) -> dict[str, str]:
    trained = ", ".join(f"{name} {version}" for name, version in report.trained_with.items())
    return ({"trained with": trained} if trained else {}) | report.environment


def _count(filters: int) -> str:
    shown = figures.MOST_FILTERS
    return f"The {filters} filters" if filters <= shown else f"The first {shown} of the {filters} filters"


def _layers(report: Report) -> str:
    rows = [
        (
            f"{_text(layer['name'])} <span class=quiet>{_text(layer['details'])}</span>",
            "×".join(map(str, layer["shape"])),
            f"{layer['parameters']:,}",
            f"{layer['multiply_adds']:,}",
            "all" if layer["receptive_field"] is None else "×".join(map(str, layer["receptive_field"])),
        )
        for layer in report.layers
    ]
    rows.append(("total", "", f"{report.parameters:,}", f"{report.multiply_adds:,}", ""))
    return _section("Layers", _table(("layer", "output", "parameters", "multiply-adds", "sees pixels"), rows))


def _proofs(report: Report) -> str:
    proofs = _table(
        ("exported form", "images", "largest difference of a probability", "of a logit", "other answers"),
        (
            (
                _text(form),
                f"{one.images:,}",
                f"{one.max_abs_diff_probabilities:.2g}",
                f"{one.max_abs_diff_logits:.2g}",
                str(one.top1_disagreements),
            )
            for form, one in report.parity.items()
        ),
    )
    trials = ""
    if report.trials:
        sizes = list(next(iter(report.trials.values())).speedup)
        trials = "<h2 style='margin-top:18px'>Variants tried on this machine</h2>" + _table(
            ("variant", "published", *(f"speed, batch {size}" for size in sizes), "load", "test accuracy", "verdict"),
            (
                (
                    _text(name),
                    "yes" if one.published else "no",
                    *(f"{one.speedup[size]:.2f}×" for size in sizes),
                    f"{one.load_speedup:.2f}×",
                    f"{100 * one.accuracy:.2f} %",
                    _text(one.verdict),
                )
                for name, one in report.trials.items()
            ),
        )
    return _section("Proof that the exported files are this model", proofs + trials)


def _section(title: str, content: str) -> str:
    return f"<section><h2>{_text(title)}</h2>{content}</section>"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; cells are HTML."""
    cells = "".join(f"<th>{name}</th>" for name in head) if any(head) else ""
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table>{f'<tr>{cells}</tr>' if cells else ''}{body}</table>"


def _large(number: int) -> str:
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return str(number)


def _text(text: str) -> str:
    return html.escape(text)
