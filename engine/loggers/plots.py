"""Plots: the curves of a run, a confusion matrix, predictions, a grid of images.

Every function returns the bytes of a PNG.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import RendererAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.ticker import MaxNLocator

from engine.loggers.fonts import as_png

TRAIN, VALIDATION, GRID = "#4c72b0", "#dd8452", "#e4e4e4"
MAX_IMAGES = 160  # in one plot; a PNG of matplotlib has fewer than 2**16 pixels on a side
DPI, TEXT_SIZE = 100, 10  # of predictions; the size in points
WIDTHS = {2: 9, 3: 12}  # of predictions in inches, by their columns
NAME_SHARE = 0.45  # of a column, for the names beside the bars


@as_png
def history(rows: Sequence[dict[str, Any]], phases: Sequence[str]) -> Figure:
    """Plots accuracy and loss of all epochs, with each phase marked."""
    figure = Figure(figsize=(11, 4.2), dpi=110, layout="constrained")
    epochs = np.arange(1, len(rows) + 1)
    for index, what in enumerate(("accuracy", "loss")):
        axes = figure.add_subplot(1, 2, index + 1)
        for split, colour in (("train", TRAIN), ("val", VALIDATION)):
            label = {"train": "training", "val": "validation"}[split]
            values = [row[f"{split}_{what}"] for row in rows]
            axes.plot(epochs, values, "o-", color=colour, label=label, markersize=4)
        axes.set_title(what.capitalize(), pad=22)  # above the names of the phases
        axes.set(xlabel="epoch", xlim=(0.5, len(rows) + 0.5))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(color=GRID)
        axes.spines[["top", "right"]].set_visible(False)
        _mark_phases(axes, [row["phase"] for row in rows], phases)
        axes.legend(frameon=False, loc="lower right" if what == "accuracy" else "upper right")
    return figure


def _mark_phases(axes: Any, names: Sequence[str], phases: Sequence[str]) -> None:
    for phase in phases:
        epochs = [index for index, name in enumerate(names) if name == phase]
        if not epochs:
            continue
        if epochs[0]:
            axes.axvline(epochs[0] + 0.5, color="#888888", linestyle=":")
        middle = (epochs[0] + epochs[-1]) / 2 + 1
        axes.text(
            middle, 1.0, phase, transform=axes.get_xaxis_transform(), ha="center", va="bottom",
            color="#666666", fontsize=9,
        )  # fmt: skip


@as_png
def confusion(matrix: np.ndarray, classes: Sequence[str]) -> Figure:
    """Plots a confusion matrix: labels down, predictions across, coloured by share of the row.

    Args:
      matrix: int64 [classes, classes].
      classes: their names; names and numbers are shown only where they are legible.
    """
    count = len(classes)
    side = float(np.clip(2.5 + 0.45 * count, 4, 14))
    figure = Figure(figsize=(side, side), dpi=100, layout="constrained")
    axes = figure.add_subplot()
    shares = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set(xlabel="predicted", ylabel="given")
    if count <= 40:
        axes.set_xticks(range(count), classes, rotation=45 if count > 3 else 0, ha="center")
        axes.set_yticks(range(count), classes)
    if count <= 20:
        for (row, column), number in np.ndenumerate(matrix):
            colour = "white" if shares[row, column] > 0.5 else "black"
            axes.text(column, row, str(number), ha="center", va="center", color=colour)
    return figure


@dataclasses.dataclass(frozen=True)
class PlottedPrediction:
    """An image and what a model predicts for it.

    image: uint8 [H, W, 3]. labels: [(label, probability)]. decision: that of the decision rule;
    None without one. evidence: a heat map on the image and the label that it explains,
    (uint8 [H, W, 3], name); for all images in a plot, or for none.
    """

    title: str
    image: np.ndarray
    labels: Sequence[tuple[str, float]]
    decision: str | None = None
    evidence: tuple[np.ndarray, str] | None = None


@as_png
def predictions(items: Sequence[PlottedPrediction]) -> Figure:
    """Plots each image beside the bars of its labels, for the first MAX_IMAGES images.

    Heat maps come between the two. Names that are too long are shortened in the middle.
    """
    items = items[:MAX_IMAGES]
    columns = 3 if items and items[0].evidence else 2
    size = (WIDTHS[columns], 3.2 * max(len(items), 1))
    figure = Figure(figsize=size, dpi=DPI, layout="constrained")
    names_width = NAME_SHARE * figure.bbox.width / columns
    title_width = 0.9 * (figure.bbox.width - names_width) / columns
    for index, item in enumerate(items):
        first = columns * index + 1
        axes = [figure.add_subplot(len(items), columns, first + n) for n in range(columns)]
        shown = [(item.image, item.title)]
        if item.evidence:
            shown.append((item.evidence[0], f"evidence for {item.evidence[1]}"))
        for one, (image, title) in zip(axes, shown, strict=False):
            one.imshow(image)
            one.axis("off")
            one.set_title(_shorten(title, title_width), fontsize=TEXT_SIZE)
        _draw_bars(axes[-1], item.labels, names_width)
        if item.decision is not None:
            axes[-1].set_title(_shorten(f"-> {item.decision}", title_width), fontsize=TEXT_SIZE)
    return figure


def _draw_bars(axes: Any, labels: Sequence[tuple[str, float]], width: float) -> None:
    """width: for the names, in pixels."""
    # By index and not by name, since two classes of ImageNet are named `crane`.
    bars = axes.barh(range(len(labels)), [p for _, p in labels], color=TRAIN)
    axes.set_yticks(range(len(labels)), [_shorten(label, width) for label, _ in labels])
    axes.invert_yaxis()
    axes.bar_label(bars, fmt="%.3f", padding=3)
    axes.set(xlim=(0, 1.15), xlabel="probability")
    axes.spines[["top", "right"]].set_visible(False)


def _shorten(text: str, width: float) -> str:
    """Returns the text, or as much of its two ends as fits in so many pixels."""
    full_width = _text_width(text)
    if full_width <= width:
        return text
    half = min(int(len(text) * width / full_width), len(text) - 1) // 2
    while True:  # the ends may be wider than the middle
        shortened = f"{text[:half]}…{text[len(text) - half :]}"
        if half == 0 or _text_width(shortened) <= width:
            return shortened
        half -= 1


def _text_width(text: str) -> float:
    """In pixels."""
    font = FontProperties(size=TEXT_SIZE)
    return RendererAgg(1, 1, DPI).get_text_width_height_descent(text, font, ismath=False)[0]
