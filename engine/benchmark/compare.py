"""Results of several machines beside each other, as a table and as an image."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from engine.benchmark.layout import WIDTH, columns, money, number, rate
from engine.benchmark.matching import Entry, blocks, machines
from engine.benchmark.report import Report, gpus, peak, processor
from engine.benchmark.rows import efficiency
from engine.core.text import shorten

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Inches: one bar and the space above a block's bars; least room for the names, a letter of one;
# bars of images/s, gap, bars of cost.
BAR, HEAD, MARGIN = 0.3, 0.66, 0.15
NAMES, LETTER, SPEEDS, GAP, COSTS = 3.1, 0.08, 4.6, 0.3, 3.2
DOTS = 100  # an inch
MOST = 200  # bars in one image; a PNG of matplotlib has fewer than 2**16 pixels on a side
TITLE = 76  # letters
PALETTE = ("#4c72b0", "#dd8452", "#55a868", "#c44e52", "#8172b3", "#937860", "#da8bc3", "#8c8c8c")
INK = "#333333"


def compare(reports: Sequence[Report]) -> str:
    """The machines, then a block for each workload."""
    lines = []
    for machine, report in zip(machines(reports), reports, strict=True):
        parts = [gpus(report) or "no GPU in use", processor(report)]
        parts.append(f"TensorFlow {report.software.get('tensorflow', 'unknown')}")
        if report.price_per_hour is not None:
            parts.append(f"{report.price_per_hour:g} an hour")
        text = f"{machine}: {', '.join(parts)}"
        lines += textwrap.wrap(text, WIDTH, subsequent_indent="  ")
    lines += ["", "images/s, ± half the distance between the quartiles; cost of a million images"]
    for title, entries in blocks(reports).items():
        lines += ["", shorten(title, WIDTH), *_block(entries)]
    return "\n".join(lines) + "\n"


def _block(entries: Sequence[Entry]) -> list[str]:
    head = ["machine", "batch", "images/s", "efficiency", "memory", "cost"]
    cells = [
        [
            entry.machine,
            f"{entry.row.batch_size}",
            rate(entry.row.whole),
            f"{efficiency(entry.row):.0%}",
            peak(entry.row),
            money(entry.cost),
        ]
        for entry in entries
    ]
    return columns(head, cells, texts=1)


def plot(reports: Sequence[Report]) -> bytes:
    """The bytes of a PNG; the costs are left out where no price is known."""
    import matplotlib

    buffer = io.BytesIO()
    with matplotlib.rc_context({"text.parse_math": False}):  # names may have `$` in them
        draw(reports).savefig(buffer, format="png")
    return buffer.getvalue()


def draw(reports: Sequence[Report]) -> Figure:
    """A block of bars for each block of the table, each on a scale of its own.

    Placed by hand: the axes of all blocks stand in line, and hundreds of them take no longer.
    """
    from matplotlib.figure import Figure

    shown, left_out = _that_fit(blocks(reports))
    priced = any(report.price_per_hour is not None for report in reports)
    names = machines(reports)
    colours = {name: PALETTE[place % len(PALETTE)] for place, name in enumerate(names)}
    longest = max((len(name) for entries in shown.values() for name in _names(entries)), default=0)
    left = max(NAMES, MARGIN + LETTER * longest)
    width = left + SPEEDS + (GAP + COSTS if priced else 0) + MARGIN
    height = sum(HEAD + BAR * len(entries) for entries in shown.values()) + 2 * MARGIN
    figure = Figure(figsize=(width, height), dpi=DOTS)
    top = height - MARGIN
    for title, entries in shown.items():
        top -= HEAD
        hues = [colours[entry.machine] for entry in entries]
        _write(figure, MARGIN, top + 0.36, shorten(title, TITLE), weight="bold")
        _speeds(_axes(figure, left, top, SPEEDS, len(entries), "images/s"), entries, hues)
        if priced:
            words, beside = "cost of a million images", left + SPEEDS + GAP
            _costs(_axes(figure, beside, top, COSTS, len(entries), words), entries, hues)
        top -= BAR * len(entries)
    if left_out:
        _write(figure, MARGIN, 0.1, f"{left_out} more bars are in the table only", color=INK)
    return figure


def _that_fit(found: Mapping[str, list[Entry]]) -> tuple[dict[str, list[Entry]], int]:
    """The first MOST entries, by title, and how many there are beyond."""
    left, shown = MOST, {}
    for title, entries in found.items():
        if left:
            shown[title] = entries[:left]
            left -= len(shown[title])
    return shown, sum(map(len, found.values())) - (MOST - left)


def _names(entries: Sequence[Entry]) -> list[str]:
    """The machines, with the batch size where it differs."""
    batches = {entry.row.batch_size for entry in entries}
    if len(batches) == 1:
        return [entry.machine for entry in entries]
    return [f"{entry.machine}, batch {entry.row.batch_size}" for entry in entries]


def _write(figure: Figure, left: float, bottom: float, text: str, **style: Any) -> None:
    """At a place in inches from the figure's lower left corner."""
    width, height = figure.get_size_inches()
    figure.text(left / width, bottom / height, text, fontsize=10, **style)


def _axes(figure: Figure, left: float, top: float, wide: float, bars: int, words: str) -> Any:
    """Room for that many bars below `top`, with the words above it; no numbers along the side."""
    width, height = figure.get_size_inches()
    tall = BAR * bars
    axes = figure.add_axes((left / width, (top - tall) / height, wide / width, tall / height))
    _write(figure, left, top + 0.07, words, color=INK)
    axes.set(ylim=(bars - 0.5, -0.5), xticks=[], yticks=[])  # the first stands on top
    axes.spines[["top", "right", "bottom"]].set_visible(False)
    return axes


def _speeds(axes: Any, entries: Sequence[Entry], hues: Sequence[str]) -> None:
    wholes = [entry.row.whole for entry in entries]
    medians = [whole.median for whole in wholes]
    below = [whole.median - whole.low for whole in wholes]
    above = [whole.high - whole.median for whole in wholes]
    style = {"height": 0.7, "color": hues, "ecolor": INK, "capsize": 3}
    bars = axes.barh(range(len(wholes)), medians, xerr=[below, above], **style)
    axes.bar_label(bars, [number(median) for median in medians], padding=5, fontsize=9)
    axes.set_yticks(range(len(entries)), _names(entries), fontsize=9)
    axes.tick_params(length=0)
    axes.set_xlim(0, max(whole.high for whole in wholes) * 1.2)  # room for the numbers


def _costs(axes: Any, entries: Sequence[Entry], hues: Sequence[str]) -> None:
    costs = [entry.cost or 0.0 for entry in entries]
    bars = axes.barh(range(len(costs)), costs, height=0.7, color=hues)
    words = ["no price" if entry.cost is None else money(entry.cost) for entry in entries]
    axes.bar_label(bars, words, padding=5, fontsize=9)
    axes.set_xlim(0, (max(costs) or 1.0) * 1.25)
