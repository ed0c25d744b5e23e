"""Images for people: the curves of a run, a confusion matrix, a prediction, a sheet of images.

Every function gives the bytes of a PNG.
"""

from __future__ import annotations

import bisect
import dataclasses
import io
from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg, RendererAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.ticker import MaxNLocator

TRAIN, VALIDATION, GRID = "#4c72b0", "#dd8452", "#e4e4e4"
MOST = 160  # images in one plot; a PNG of matplotlib has fewer than 2**16 pixels on a side
DPI, TEXT_SIZE = 100, 10  # of predictions; the size in points
WIDTHS = {2: 9, 3: 12}  # of predictions in inches, by their columns
NAME_SHARE = 0.45  # of a column, which a class's name beside its bar may take

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


@dataclasses.dataclass(frozen=True)
class PlottedPrediction:
    """An image and what a model says of it.

    image: uint8 [H, W, 3]. labels: [(label, probability)]. decision: the answer that a rule makes
    of them; None where there is no rule. speaks: what is seen in the image that speaks for a
    label, and that label: (uint8 [H, W, 3], name); of all images in a plot, or of none.
    """

    title: str
    image: np.ndarray
    labels: Sequence[tuple[str, float]]
    decision: str | None = None
    speaks: tuple[np.ndarray, str] | None = None


def predictions(items: Sequence[PlottedPrediction]) -> bytes:
    """Each image beside the bars of its labels, for the first MOST images.

    What speaks for a label stands between the two. Names that are too long for their place are
    shortened in the middle.
    """
    items = items[:MOST]
    columns = 3 if items and items[0].speaks else 2
    size = (WIDTHS[columns], 3.2 * max(len(items), 1))
    figure = Figure(figsize=size, dpi=DPI, layout="constrained")
    titles: list[tuple[Any, str, str]] = []
    for place, item in enumerate(items):
        first = columns * place + 1
        axes = [figure.add_subplot(len(items), columns, first + n) for n in range(columns)]
        titles.append((_image(axes[0], item.image), "", item.title))
        if item.speaks:
            titles.append((_image(axes[1], item.speaks[0]), "what speaks for ", item.speaks[1]))
        _bars(axes[-1], item.labels, NAME_SHARE * figure.bbox.width / columns)
        if item.decision is not None:
            titles.append((axes[-1], "-> ", item.decision))
    _entitle(figure, titles)
    return _png(figure)


def _image(axes: Any, image: np.ndarray) -> Any:
    axes.imshow(image)
    axes.axis("off")
    return axes


def _bars(axes: Any, labels: Sequence[tuple[str, float]], cache_budget: float) -> None:
    """room: for the names, in pixels."""
    # By place and not by name, since two classes of ImageNet are a `crane`.
    bars = axes.barh(range(len(labels)), [p for _, p in labels], color=TRAIN)
    axes.set_yticks(range(len(labels)), [_shortened(label, cache_budget) for label, _ in labels])
    axes.invert_yaxis()
    axes.bar_label(bars, fmt="%.3f", padding=3)
    axes.set(xlim=(0, 1.15), xlabel="probability")
    axes.spines[["top", "right"]].set_visible(False)


def _entitle(figure: Figure, titles: Sequence[tuple[Any, str, str]]) -> None:
    """Titles no wider than their column: (axes, what stays, the name that follows it).

    The columns are laid out first, with titles that are as high: how wide they are depends on the
    names beside the bars.
    """
    for axes, _, _ in titles:
        axes.set_title(" ", fontsize=TEXT_SIZE)
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    for axes, before, name in titles:
        cache_budget = axes.get_position(original=True).width * figure.bbox.width - _width(before)
        axes.set_title(before + _shortened(name, cache_budget), fontsize=TEXT_SIZE)


def _shortened(text: str, cache_budget: float) -> str:
    """The text, or as much of its two ends as so many pixels hold, at TEXT_SIZE."""
    if _width(text) <= cache_budget:
        return text

    def ends(kept: int) -> str:
        return f"{text[: kept // 2]}…{text[len(text) - (kept + 1) // 2 :]}"

    fitting = bisect.bisect_right(
        range(len(text)), cache_budget, key=lambda kept: _width(ends(kept))
    )
    return ends(max(fitting - 1, 0))


def _width(text: str) -> float:
    """In pixels, at TEXT_SIZE."""
    font = FontProperties(size=TEXT_SIZE)
    return RendererAgg(1, 1, DPI).get_text_width_height_descent(text, font, ismath=False)[0]


def image_grid(images: np.ndarray, titles: Sequence[str], columns: int = 8) -> bytes:
    """The first MOST images in rows: uint8 [N, H, W, 3]."""
    images, titles = images[:MOST], titles[:MOST]
    rows = -(-len(images) // columns)
    figure = Figure(figsize=(1.6 * columns, 1.8 * rows), dpi=100, layout="constrained")
    for place, (image, title) in enumerate(zip(images, titles, strict=True)):
        axes = figure.add_subplot(rows, columns, place + 1)
        axes.imshow(image)
        axes.set_title(title, fontsize=7)
        axes.axis("off")
    return _png(figure)
