"""Drawings of a report, as SVG text that goes into the page as it is."""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Sequence
from typing import Any, TypeAlias

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from convserve.arrays import Images
from convtrain.calibration import Bin
from convtrain.feature_maps import FeatureMaps
from convtrain.history import History
from convtrain.report.content import Mistake

INK, QUIET, GRID = "#1d2733", "#66727f", "#e4e8ec"
BLUE, ORANGE, RED = "#2563a8", "#d9792b", "#c0392b"
STYLE: Any = {
    "svg.fonttype": "none",  # letters stay letters: smaller, sharp, and found by the browser's search
    "svg.hashsalt": "convtrain",
    "text.parse_math": False,  # a label with two dollars is no formula
    "font.family": "sans-serif",
    "font.sans-serif": ["Inter", "Segoe UI", "Helvetica Neue", "Arial", "DejaVu Sans"],
    "font.size": 10,
    "text.color": INK,
    "axes.labelcolor": QUIET,
    "axes.edgecolor": GRID,
    "axes.titlecolor": INK,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "xtick.color": QUIET,
    "ytick.color": QUIET,
    "legend.frameon": False,
}
Floats: TypeAlias = npt.NDArray[np.float64]
MOST_LABELS = 25
"""Classes whose numbers fit into a confusion matrix that is read by eye."""
MOST_FILTERS = 64
"""Kernels that are drawn."""


def curves(history: History) -> str:
    """Loss and accuracy over the epochs, with the epoch whose weights were kept."""
    epochs = [epoch.epoch for epoch in history.epochs]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(11.4, 3.4), layout="constrained")
        parts = (
            ("Loss", [e.loss for e in history.epochs], [e.validation_loss for e in history.epochs]),
            ("Accuracy", [e.accuracy for e in history.epochs], [e.validation_accuracy for e in history.epochs]),
        )
        for axes, (name, training, validation) in zip(figure.subplots(1, 2), parts, strict=True):
            axes.plot(epochs, training, color=BLUE, marker="o", markersize=3, label="training")
            if all(value is not None for value in validation):
                axes.plot(epochs, validation, color=ORANGE, marker="o", markersize=3, label="validation")
            axes.axvline(history.best, color=QUIET, linewidth=1, linestyle=":", label="kept")
            axes.set(title=name, xlabel="epoch")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            axes.legend()
        return _svg(figure)


def confusion(matrix: Sequence[Sequence[int]], labels: Sequence[str]) -> str:
    """Images by class and by answer. Colour is the share of the class; the diagonal is blue, mistakes are red."""
    counts = np.asarray(matrix)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    size = len(labels)
    with mpl.rc_context(STYLE):
        side = min(max(3.6, 0.4 * size + 1.2), 11)
        figure = Figure(figsize=(side + 0.4, side), layout="constrained")
        axes = figure.subplots()
        axes.grid(visible=False)
        right = np.eye(size, dtype=bool)
        # Most mistakes are rare: the root of a share shows one in a hundred where the share itself would show nothing.
        axes.imshow(np.ma.array(np.sqrt(shares), mask=~right), cmap="Blues", vmin=0, vmax=1.25)
        axes.imshow(np.ma.array(np.sqrt(shares), mask=right), cmap="Reds", vmin=0, vmax=0.8)
        if size <= MOST_LABELS:
            names = [_short(label, 24) for label in labels]
            axes.set_xticks(range(size), names, rotation=45, ha="right", rotation_mode="anchor")
            axes.set_yticks(range(size), names)
            for row, column in zip(*np.nonzero(counts), strict=True):
                dark = shares[row, column] > (0.45 if row == column else 0.3)
                axes.text(
                    column,
                    row,
                    f"{counts[row, column]:,}",
                    ha="center",
                    va="center",
                    fontsize=8,
                    color="white" if dark else INK,
                )
        axes.set(xlabel="answer", ylabel="class")
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        return _svg(figure)


def per_class(accuracy: dict[str, float], overall: float) -> str:
    """Accuracy of each class, worst first, and how far it is from that of all."""
    names = sorted(accuracy, key=accuracy.__getitem__)[: 2 * MOST_LABELS]
    values = np.array([100 * accuracy[name] for name in names])
    mean = 100 * overall
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(4.4, max(1.6, 0.36 * len(names) + 0.9)), layout="constrained")
        axes = figure.subplots()
        places = np.arange(len(names))
        axes.hlines(places, mean, values, color=BLUE, linewidth=2, alpha=0.6)
        axes.plot(values, places, linestyle="none", marker="o", markersize=6, color=BLUE)
        axes.axvline(mean, color=ORANGE, linewidth=1.2)
        axes.annotate(
            f"all {mean:.2f} %", (mean, 1.0), xycoords=("data", "axes fraction"), xytext=(0, 3),
            textcoords="offset points", ha="center", fontsize=9, color=ORANGE,
        )  # fmt: skip
        for place, value in zip(places, values, strict=True):
            axes.annotate(
                f"{value:.1f} %", (1.0, place), xycoords=("axes fraction", "data"), xytext=(6, 0),
                textcoords="offset points", va="center", fontsize=9,
            )  # fmt: skip
        axes.set_yticks(places, [_short(name) for name in names])
        axes.invert_yaxis()
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 5, 10]))
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.margins(x=0.06)
        axes.set_xlabel("accuracy, %")
        axes.grid(visible=False, axis="y")
        axes.tick_params(axis="y", length=0)
        return _svg(figure)


def reliability(before: Sequence[Bin], after: Sequence[Bin], ece_before: float, ece_after: float) -> str:
    """How often the model is right, by how sure it is; area of a point is its share of the images.

    A line through a point spans what chance allows: the 95 % interval of its share that is right (Wilson, 1927).
    """
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(4.8, 4.8), layout="constrained")
        axes = figure.subplots()
        axes.plot([0, 1], [0, 1], color=QUIET, linewidth=1, linestyle=":", label="means what it says")
        for bins, colour, label in (
            (before, ORANGE, f"without temperature, ECE {100 * ece_before:.2f} %"),
            (after, BLUE, f"as served, ECE {100 * ece_after:.2f} %"),
        ):
            images = np.array([one.images for one in bins], float)
            x, y = np.array([one.confidence for one in bins]), np.array([one.accuracy for one in bins])
            middle, half = wilson(y, images)
            axes.vlines(x, middle - half, middle + half, color=colour, linewidth=1, alpha=0.5)
            area = 12 + 220 * np.sqrt(images / max(images.sum(), 1))
            axes.scatter(x, y, s=area, color=colour, alpha=0.75, linewidths=0, label=label, clip_on=False)
        axes.set(xlabel="probability of the answer", ylabel="share that is right", xlim=(0, 1.02), ylim=(0, 1.02))
        legend: Any = figure.legend(loc="outside lower left", fontsize=9)
        for handle in legend.legend_handles[1:]:
            handle.set_sizes([36])
        return _svg(figure)


def wilson(share: Floats, count: Floats) -> tuple[Floats, Floats]:
    """Middle and half width of the 95 % interval of a share, seen in `count` cases."""
    z = 1.96
    middle = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    half = z / (1 + z**2 / count) * np.sqrt(share * (1 - share) / count + z**2 / (4 * count**2))
    return middle, half


def mistakes(found: Sequence[Mistake], images: Images) -> str:
    """The images that the model is most sure of and wrong about, with what it says and what they are."""
    columns = min(8, max(len(found), 1))
    rows = math.ceil(len(found) / columns)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(1.4 * columns, 1.74 * rows), layout="constrained")
        grid = figure.subplots(rows, columns, squeeze=False)
        for axes in grid.flat:
            axes.set_axis_off()
        for axes, mistake in zip(grid.flat, found, strict=False):
            _picture(axes, images[mistake.image])
            axes.set_title(
                f"{_short(mistake.predicted)}, {_percent(mistake.probability)}",
                fontsize=8, color=RED, loc="center", pad=3,
            )  # fmt: skip
            axes.text(
                0.5, -0.05, f"is {_short(mistake.label)}", transform=axes.transAxes, ha="center", va="top", fontsize=8.5
            )
        return _svg(figure)


def filters(kernels: npt.NDArray[np.float32]) -> str:
    """The first kernels of the first convolution, float32 [filters, height, width, channels]; grey (or mid) is 0."""
    kernels = kernels[:MOST_FILTERS]
    columns = min(16, len(kernels))
    rows = math.ceil(len(kernels) / columns)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(0.62 * columns, 0.62 * rows), layout="constrained")
        for axes, kernel in zip(figure.subplots(rows, columns, squeeze=False).flat, kernels, strict=False):
            reach = max(float(np.abs(kernel).max()), 1e-12)
            if kernel.shape[-1] == 3:
                axes.imshow(0.5 + kernel / (2 * reach), interpolation="nearest")
            else:
                axes.imshow(kernel.mean(axis=-1), cmap="RdBu_r", vmin=-reach, vmax=reach, interpolation="nearest")
        for axes in figure.axes:
            axes.set_axis_off()
        return _svg(figure)


def feature_maps(image: Images, found: Sequence[FeatureMaps]) -> str:
    """An image, uint8 [H, W, C], and what the first channels of each convolution make of it; bright is strong."""
    columns = 16
    rows = [min(2, math.ceil(maps.values.shape[-1] / columns)) for maps in found]
    with mpl.rc_context(STYLE):
        figure = Figure(
            figsize=(11.4, max(1.3, 0.3 + sum(0.36 + 0.64 * count for count in rows))), layout="constrained"
        )
        parts: Any = figure.subfigures(1, 2, width_ratios=(1.1, 9))
        axes = parts[0].subplots()
        axes.set_axis_off()
        axes.set_anchor("N")
        axes.set_title("image", fontsize=9, loc="center", color=QUIET)
        _picture(axes, image)
        below = parts[1].subfigures(len(found), 1, height_ratios=[0.36 + 0.64 * count for count in rows], squeeze=False)
        for part, count, maps in zip(below.flat, rows, found, strict=True):
            channels = maps.values.shape[-1]
            shown = min(channels, columns * count)
            part.suptitle(
                f"{maps.name}: {shown} of {channels} channels, {maps.values.shape[1]}×{maps.values.shape[2]}",
                fontsize=9, color=QUIET, ha="left", x=0.01,
            )  # fmt: skip
            for number, axes in enumerate(part.subplots(count, columns, squeeze=False).flat):
                axes.set_axis_off()
                if number < shown:
                    axes.imshow(maps.values[0, :, :, number], cmap="magma", interpolation="nearest")
        return _svg(figure)


def _picture(axes: Any, image: Images) -> None:
    if image.shape[-1] == 1:
        axes.imshow(image[..., 0], cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    else:
        axes.imshow(image, interpolation="nearest")


def _percent(probability: float) -> str:
    """Never 100: no probability of a softmax is."""
    return f"{100 * probability:.1f} %" if probability < 0.9995 else ">99.9 %"


def _short(label: str, most: int = 11) -> str:
    return label if len(label) <= most else f"{label[: most - 1]}…"


def _svg(figure: Figure) -> str:
    """The drawing as text, without the XML declaration, which has no place inside a page."""
    buffer = io.StringIO()
    with warnings.catch_warnings():
        # Letters stay letters: a browser has fonts for labels of all languages.
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]
