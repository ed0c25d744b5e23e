"""Charts as inline SVG with the page's font and colors, light or dark.

Charts contain no names of classes or files, which are text beside them, in any script.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from engine.evaluation.calibration import CalibrationBin
from engine.report.markup import Markup, escape

# Placeholders, replaced by the page's colors in the SVG; see `style`.
INK, MUTED, LINE, ACCENT = "#010101", "#020202", "#030303", "#040404"
_CSS_COLORS = {INK: "ink", MUTED: "muted", LINE: "line", ACCENT: "accent"}
# Of the lines of one chart; they differ without colors too.
STYLES = (
    (ACCENT, "solid"), (INK, "dashed"), (MUTED, "solid"), (ACCENT, "dotted"), (INK, "dotted"),
)  # fmt: skip
# Inches of 72 units: text is legible at half the page's width, or on a phone.
_WIDTH, _HEIGHT = 4.3, 2.9
_FONT_SIZE = 9  # units
MAX_CELLS = 200  # of a matrix, across: a phone has a pixel for each

_RC = {
    "svg.fonttype": "none",
    "font.size": _FONT_SIZE,
    "text.color": INK,
    "axes.edgecolor": LINE,
    "axes.labelcolor": MUTED,
    "xtick.color": LINE,
    "ytick.color": LINE,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "lines.linewidth": 1.6,
    "lines.solid_capstyle": "round",
}


def legend_style(index: int) -> str:
    """Returns the CSS of a legend's sample of the line with that index."""
    color, dashes = STYLES[index]
    return f"border-top: 2px {dashes} var(--{_CSS_COLORS[color]})"


def lines(
    name: str,
    summary: str,
    pairs: Sequence[tuple[np.ndarray, np.ndarray]],
    axes_names: tuple[str, str],
    steps: bool = False,
    diagonal: bool = False,
) -> Markup:
    """Draws curves over shares from 0 to 1, each (x, y), in the order of `STYLES`."""

    def draw(axes: Any) -> None:
        if diagonal:
            axes.plot([0, 1], [0, 1], color=LINE, linewidth=1)
        for (x, y), (color, dashes) in zip(pairs, STYLES, strict=False):
            draws = "steps-post" if steps else "default"
            axes.plot(x, y, color=color, linestyle=dashes, drawstyle=draws, clip_on=False)
        _shares(axes, *axes_names)

    return _chart(name, summary, draw)


def reliability(
    name: str, summary: str, before: Sequence[CalibrationBin], after: Sequence[CalibrationBin]
) -> Markup:
    """Draws accuracy over confidence; a dot's area is its bin's share of the images."""

    def draw(axes: Any) -> None:
        axes.plot([0, 1], [0, 1], color=LINE, linewidth=1)
        for bins, (color, dashes) in zip((after, before), STYLES, strict=False):
            rows = [row for row in bins if row.images]
            x, y = [row.confidence for row in rows], [row.accuracy for row in rows]
            total = sum(row.images for row in rows)
            areas = [8 + 120 * row.images / total for row in rows]
            axes.plot(x, y, color=color, linestyle=dashes, linewidth=1.2, clip_on=False)
            axes.scatter(x, y, areas, color=color, alpha=0.75, linewidths=0, clip_on=False)
        _shares(axes, "confidence", "accuracy")

    return _chart(name, summary, draw)


def history(
    name: str,
    summary: str,
    training: Sequence[float],
    validation: Sequence[float],
    phases: Sequence[str],
    shares: bool,
) -> Markup:
    """Draws a metric by epoch; a line marks where a phase begins.

    Args:
      name: prefix of the ids in the SVG.
      summary: describes the chart for screen readers.
      training, validation: the values of each epoch.
      phases: the phase of each epoch.
      shares: whether the values are shares of 1.
    """
    epochs = np.arange(1, len(phases) + 1)

    def draw(axes: Any) -> None:
        for epoch in np.flatnonzero(np.array(phases[1:]) != np.array(phases[:-1])):
            axes.axvline(epoch + 1.5, color=LINE, linewidth=1, zorder=0)
        for values, (color, dashes) in zip((validation, training), STYLES, strict=False):
            axes.plot(epochs, values, marker="o", markersize=3, color=color, linestyle=dashes)
        axes.set(xlabel="epoch", xlim=(0.5, len(phases) + 0.5))
        axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(5))
        if shares:
            axes.yaxis.set_major_formatter(PercentFormatter(1))

    return _chart(name, summary, draw)


def heat(name: str, summary: str, matrix: np.ndarray) -> Markup:
    """Draws the confusion matrix of many classes: a cell's opacity is its share of the row.

    With more classes than fit on a page, a cell is the maximum over a block of classes.

    Args:
      name: prefix of the ids in the SVG.
      summary: describes the chart for screen readers.
      matrix: int64 [classes, classes], labels down. Classes are numbered from 1.
    """
    count, step = len(matrix), classes_per_cell(len(matrix))
    cells = block_maximum(matrix / np.maximum(matrix.sum(1, keepdims=True), 1), step)
    end = len(cells) * step + 0.5
    # One color that is visible on light and dark pages, from transparent to opaque.
    fades = LinearSegmentedColormap.from_list("fades", ["#2b93aa00", "#2b93aaff"])

    def draw(axes: Any) -> None:
        axes.imshow(
            np.sqrt(cells), cmap=fades, vmin=0, vmax=1, interpolation="none",
            extent=(0.5, end, end, 0.5),
        )  # fmt: skip
        axes.set(xlabel="predicted", ylabel="label")
        axes.set(xlim=(0.5, count + 0.5), ylim=(count + 0.5, 0.5))
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(MaxNLocator(6, integer=True, prune=None))
        axes.spines[["top", "right"]].set_visible(True)

    return _chart(name, summary, draw, size=(_WIDTH, _WIDTH))


def classes_per_cell(classes: int) -> int:
    """Returns the width of the block of classes that a cell of `heat` stands for."""
    return -(-classes // MAX_CELLS)


def block_maximum(matrix: np.ndarray, step: int) -> np.ndarray:
    """Returns the maximum of each block of step × step cells; the last ones may be smaller."""
    starts = np.arange(0, len(matrix), step)
    return np.maximum.reduceat(np.maximum.reduceat(matrix, starts, 0), starts, 1)


def _shares(axes: Any, across: str, up: str) -> None:
    axes.set(xlabel=across, ylabel=up, xlim=(0, 1), ylim=(0, 1))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(PercentFormatter(1))
        axis.set_major_locator(MaxNLocator(5))


def _chart(
    name: str, summary: str, draw: Any, size: tuple[float, float] = (_WIDTH, _HEIGHT)
) -> Markup:
    with matplotlib.rc_context({**_RC, "svg.hashsalt": name}):
        figure = Figure(figsize=size, dpi=72, layout="constrained")
        axes = figure.add_subplot()
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(length=3)
        for spine in axes.spines.values():
            spine.set_zorder(0)  # below curves along the edge
        draw(axes)
        figure.patch.set_visible(False)
        axes.patch.set_visible(False)
        buffer = io.StringIO()
        FigureCanvasSVG(figure).print_svg(buffer)
    return Markup(_for_page(buffer.getvalue(), name, summary))


def _for_page(svg: str, name: str, summary: str) -> str:
    """Makes ids unique, and adds the page's colors and a text for screen readers."""
    drawing = svg[svg.index("<svg") :]
    view = re.search(r'viewBox="[^"]*"', drawing)
    inner = drawing[drawing.index(">") + 1 :]
    inner = re.sub(r"<metadata>.*?</metadata>|<style[^>]*>.*?</style>", "", inner, flags=re.DOTALL)
    inner = re.sub(r"font-family: [^;]*; ", "", inner)
    inner = re.sub(r'\bid="', f'id="{name}-', inner)
    inner = re.sub(r'href="#', f'href="#{name}-', inner).replace("url(#", f"url(#{name}-")
    for color, variable in _CSS_COLORS.items():
        inner = inner.replace(color, f"var(--{variable})")
    start = f'<svg {view[0] if view else ""} role="img" aria-label="{escape(summary)}">'
    return start + re.sub(r">\s+<", "><", inner)
