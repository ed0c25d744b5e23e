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
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from engine.report.markup import Markup, details, escape, tag

# Placeholders, replaced by the page's colors in the SVG; see `style.css`.
INK, MUTED, LINE, ACCENT = "#010101", "#020202", "#030303", "#040404"
_CSS_COLORS = {INK: "ink", MUTED: "muted", LINE: "line", ACCENT: "accent"}
# Of the lines of one chart; they differ without colors too.
STYLES = (
    (ACCENT, "solid"), (INK, "dashed"), (MUTED, "solid"), (ACCENT, "dotted"), (INK, "dotted"),
)  # fmt: skip
# Inches of 72 units: text is legible at half the page's width, or on a phone.
_WIDTH, _HEIGHT = 4.3, 2.9
MAX_CELLS = 200  # of a matrix, across: a phone has a pixel for each

_RC: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.size": 9,  # units
    "figure.dpi": 72,
    "figure.frameon": False,
    "figure.constrained_layout.use": True,
    "text.color": INK,
    "axes.edgecolor": LINE,
    "axes.labelcolor": MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": LINE,
    "ytick.color": LINE,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "xtick.major.size": 3,
    "ytick.major.size": 3,
    "lines.linewidth": 1.6,
    "lines.solid_capstyle": "round",
}


def figure(
    chart: Markup, caption: str, lines: Sequence[str] = (), numbers: Markup | None = None
) -> Markup:
    """A chart with its caption, a legend of its lines, and its numbers in a folded table."""
    parts = [tag("figcaption", caption)]
    if lines:
        samples = [tag("span", style=_legend_style(index)) for index in range(len(lines))]
        entries = [tag("li", *pair) for pair in zip(samples, lines, strict=True)]
        parts.append(tag("ul", *entries, class_="legend"))
    parts.append(chart)
    if numbers:
        parts.append(details("Data", numbers))
    return tag("figure", *parts)


def _legend_style(index: int) -> str:
    """Returns the CSS of a legend's sample of the line with that index."""
    color, dashes = STYLES[index]
    return f"border-top: 2px {dashes} var(--{_CSS_COLORS[color]})"


@matplotlib.rc_context(_RC)
def curves(
    name: str,
    summary: str,
    points: Sequence[Sequence[Any]],
    axes_names: tuple[str, str],
    steps: bool = False,
    diagonal: bool = False,
) -> Markup:
    """Draws curves over shares from 0 to 1, in the order of `STYLES`.

    Args:
      name: prefix of the ids in the SVG.
      summary: describes the chart for screen readers.
      points: (x, y) of each curve, or (x, y, areas) to draw a dot at each point.
      axes_names: of x and y.
    """
    axes = _axes()
    if diagonal:
        axes.plot([0, 1], [0, 1], color=LINE, linewidth=1)
    for (x, y, *areas), (color, dashes) in zip(points, STYLES, strict=False):
        draws = "steps-post" if steps else "default"
        axes.plot(x, y, color=color, linestyle=dashes, drawstyle=draws, clip_on=False)
        if areas:
            axes.scatter(x, y, *areas, color=color, alpha=0.75, linewidths=0, clip_on=False)
    axes.set(xlabel=axes_names[0], ylabel=axes_names[1], xlim=(0, 1), ylim=(0, 1))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(PercentFormatter(1))
        axis.set_major_locator(MaxNLocator(5))
    return _svg(axes, name, summary)


@matplotlib.rc_context(_RC)
def history(
    name: str,
    summary: str,
    series: Sequence[Sequence[float]],
    phases: Sequence[str],
    shares: bool,
) -> Markup:
    """Draws a metric by epoch; a line marks where a phase begins.

    Args:
      name: prefix of the ids in the SVG.
      summary: describes the chart for screen readers.
      series: the values of each epoch, in the order of `STYLES`.
      phases: the phase of each epoch.
      shares: whether the values are shares of 1.
    """
    axes, epochs = _axes(), np.arange(1, len(phases) + 1)
    for epoch in np.flatnonzero(np.array(phases[1:]) != np.array(phases[:-1])):
        axes.axvline(epoch + 1.5, color=LINE, linewidth=1, zorder=0)
    for values, (color, dashes) in zip(series, STYLES, strict=False):
        axes.plot(epochs, values, marker="o", markersize=3, color=color, linestyle=dashes)
    axes.set(xlabel="epoch", xlim=(0.5, len(phases) + 0.5))
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(5))
    if shares:
        axes.yaxis.set_major_formatter(PercentFormatter(1))
    return _svg(axes, name, summary)


@matplotlib.rc_context(_RC)
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
    axes = _axes((_WIDTH, _WIDTH))
    axes.imshow(
        np.sqrt(cells), cmap=fades, vmin=0, vmax=1, interpolation="none",
        extent=(0.5, end, end, 0.5),
    )  # fmt: skip
    axes.set(xlabel="predicted", ylabel="label")
    axes.set(xlim=(0.5, count + 0.5), ylim=(count + 0.5, 0.5))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(6, integer=True, prune=None))
    axes.spines[["top", "right"]].set_visible(True)
    return _svg(axes, name, summary)


def classes_per_cell(classes: int) -> int:
    """Returns the width of the block of classes that a cell of `heat` stands for."""
    return -(-classes // MAX_CELLS)


def block_maximum(matrix: np.ndarray, step: int) -> np.ndarray:
    """Returns the maximum of each block of step × step cells; the last ones may be smaller."""
    starts = np.arange(0, len(matrix), step)
    return np.maximum.reduceat(np.maximum.reduceat(matrix, starts, 0), starts, 1)


def _axes(size: tuple[float, float] = (_WIDTH, _HEIGHT)) -> Axes:
    axes = Figure(figsize=size).add_subplot()
    axes.patch.set_visible(False)
    axes.spines[:].set_zorder(0)  # below curves along the edge
    return axes


def _svg(axes: Axes, name: str, summary: str) -> Markup:
    """Makes ids unique, and adds the page's colors and a text for screen readers."""
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": name}):
        FigureCanvasSVG(axes.figure).print_svg(buffer)
    start, _, inner = buffer.getvalue().partition("<svg")[2].partition(">")
    (view,) = re.findall(r'viewBox="[^"]*"', start)
    inner = re.sub(r"<metadata>.*?</metadata>|<style[^>]*>.*?</style>", "", inner, flags=re.DOTALL)
    inner = re.sub(r"font-family: [^;]*; ", "", inner)
    inner = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", inner)
    for color, variable in _CSS_COLORS.items():
        inner = inner.replace(color, f"var(--{variable})")
    inner = re.sub(r">\s+<", "><", inner)
    return Markup(f'<svg {view} role="img" aria-label="{escape(summary)}">{inner}')
