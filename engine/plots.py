"""Pictures for people: the curves of a run, a confusion matrix, a prediction, a sheet of images.

Every function gives the bytes of a PNG.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

TRAIN, VALIDATION, GRID = "#4c72b0", "#dd8452", "#e4e4e4"
MOST = 160  # pictures in one plot; a PNG of matplotlib has fewer than 2**16 pixels on a side

matplotlib.rcParams["text.parse_math"] = False  # classes and files may have `$` in their names


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer)
    return buffer.getvalue()


def history(rows: Sequence[dict[str, Any]], phases: Sequence[str]) -> bytes:
    """Accuracy and loss of all epochs, one after the other, each phase marked."""
    figure = Figure(figsize=(11, 4.2), dpi=110, layout="constrained")
    epochs = np.arange(1, len(rows) + 1)
    for place, what in enumerate(("accuracy", "loss")):
        axes = figure.add_subplot(1, 2, place + 1)
        for part, colour in (("train", TRAIN), ("val", VALIDATION)):
            label = {"train": "training", "val": "validation"}[part]
            values = [row[f"{part}_{what}"] for row in rows]
            axes.plot(epochs, values, "o-", color=colour, label=label, markersize=4)
        axes.set_title(what.capitalize(), pad=22)  # the names of the phases stand below it
        axes.set(xlabel="epoch", xlim=(0.5, len(rows) + 0.5))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(color=GRID)
        axes.spines[["top", "right"]].set_visible(False)
        _mark_phases(axes, [row["phase"] for row in rows], phases)
        axes.legend(frameon=False, loc="lower right" if what == "accuracy" else "upper right")
    return _png(figure)


def _mark_phases(axes: Any, names: Sequence[str], phases: Sequence[str]) -> None:
    for phase in phases:
        places = [place for place, name in enumerate(names) if name == phase]
        if not places:
            continue
        if places[0]:
            axes.axvline(places[0] + 0.5, color="#888888", linestyle=":")
        middle = (places[0] + places[-1]) / 2 + 1
        axes.text(
            middle, 1.0, phase, transform=axes.get_xaxis_transform(), ha="center", va="bottom",
            color="#666666", fontsize=9,
        )  # fmt: skip


def confusion(matrix: np.ndarray, classes: Sequence[str]) -> bytes:
    """Given labels down, predicted labels across; the colour is the share of the row.

    matrix: int64 [classes, classes]. Numbers and names are written where they can be read.
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
    return _png(figure)


def predictions(items: Sequence[tuple[str, np.ndarray, Sequence[tuple[str, float]]]]) -> bytes:
    """Each picture beside the bars of its labels, for the first MOST pictures.

    items: (title, uint8 [H, W, 3], [(label, probability)]).
    """
    return _beside_bars([(title, [image], labels) for title, image, labels in items], 9)


def explanations(
    items: Sequence[tuple[str, np.ndarray, np.ndarray, Sequence[tuple[str, float]]]],
) -> bytes:
    """As `predictions`, with a second picture between each and its bars: what was seen in it.

    items: (title, uint8 [H, W, 3], another of that kind, [(label, probability)]).
    """
    return _beside_bars([(title, [image, seen], bars) for title, image, seen, bars in items], 12)


def _beside_bars(items: Sequence[tuple], width: float) -> bytes:
    """items: (title, one or more pictures, [(label, probability)]), as many of each."""
    items = items[:MOST]
    figure = Figure(figsize=(width, 3.2 * max(len(items), 1)), dpi=100, layout="constrained")
    for place, (title, images, labels) in enumerate(items):
        columns = len(images) + 1
        for column, image in enumerate(images, 1):
            left = figure.add_subplot(len(items), columns, columns * place + column)
            left.imshow(image)
            left.axis("off")
            left.set_title(title if column == 1 else f"what speaks for {labels[0][0]}", fontsize=10)
        right = figure.add_subplot(len(items), columns, columns * (place + 1))
        # By place and not by name, since two classes of ImageNet are a `crane`.
        bars = right.barh(range(len(labels)), [p for _, p in labels], color=TRAIN)
        right.set_yticks(range(len(labels)), [label for label, _ in labels])
        right.invert_yaxis()
        right.bar_label(bars, fmt="%.3f", padding=3)
        right.set(xlim=(0, 1.15), xlabel="probability")
        right.spines[["top", "right"]].set_visible(False)
    return _png(figure)


def sheet(images: np.ndarray, titles: Sequence[str], columns: int = 8) -> bytes:
    """The first MOST pictures in rows: uint8 [N, H, W, 3]."""
    images, titles = images[:MOST], titles[:MOST]
    rows = -(-len(images) // columns)
    figure = Figure(figsize=(1.6 * columns, 1.8 * rows), dpi=100, layout="constrained")
    for place, (image, title) in enumerate(zip(images, titles, strict=True)):
        axes = figure.add_subplot(rows, columns, place + 1)
        axes.imshow(image)
        axes.set_title(title, fontsize=7)
        axes.axis("off")
    return _png(figure)
