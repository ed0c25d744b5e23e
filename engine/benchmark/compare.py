"""Compares the results of several machines, as a table and as an image."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from engine.benchmark.comparison_groups import GroupEntry, group_measurements, machine_names
from engine.benchmark.measurement import efficiency
from engine.benchmark.report import Report, cpu_label, gpu_label, peak_memory
from engine.benchmark.text_table import (
    MAX_WIDTH,
    align_columns,
    format_cost,
    format_number,
    format_rate,
)
from engine.core.text import shorten

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Inches: a bar, the title above a group; names at least, one letter of them; bars of images/s,
# gap, bars of cost.
BAR_HEIGHT, TITLE_HEIGHT, MARGIN = 0.3, 0.66, 0.15
MIN_NAMES_WIDTH, LETTER_WIDTH, SPEEDS_WIDTH, GAP, COSTS_WIDTH = 3.1, 0.08, 4.6, 0.3, 3.2
DOTS_PER_INCH = 100
MAX_BARS = 200  # in one image; matplotlib writes fewer than 2**16 pixels on a side
MAX_TITLE_LENGTH = 76  # letters
PALETTE = ("#4c72b0", "#dd8452", "#55a868", "#c44e52", "#8172b3", "#937860", "#da8bc3", "#8c8c8c")
TEXT_COLOR = "#333333"


def compare(reports: Sequence[Report]) -> str:
    """Formats the machines, then a table for each group."""
    lines = []
    for machine, report in zip(machine_names(reports), reports, strict=True):
        parts = [gpu_label(report) or "no GPU in use", cpu_label(report)]
        parts.append(f"TensorFlow {report.software.get('tensorflow', 'unknown')}")
        if report.price_per_hour is not None:
            parts.append(f"{report.price_per_hour:g} an hour")
        text = f"{machine}: {', '.join(parts)}"
        lines += textwrap.wrap(text, MAX_WIDTH, subsequent_indent="  ")
    lines += ["", "images/s, ± half the interquartile range; cost of a million images"]
    for title, entries in group_measurements(reports).items():
        lines += ["", shorten(title, MAX_WIDTH), *_table(entries)]
    return "\n".join(lines) + "\n"


def _table(entries: Sequence[GroupEntry]) -> list[str]:
    head = ["machine", "batch", "images/s", "efficiency", "memory", "cost"]
    cells = [
        [
            entry.machine,
            f"{entry.measurement.batch_size}",
            format_rate(entry.measurement.whole),
            f"{efficiency(entry.measurement):.0%}",
            peak_memory(entry.measurement),
            format_cost(entry.cost),
        ]
        for entry in entries
    ]
    return align_columns(head, cells, text_columns=1)


def plot(reports: Sequence[Report]) -> bytes:
    """Returns the comparison as a PNG; omits costs without any price."""
    import matplotlib

    buffer = io.BytesIO()
    with matplotlib.rc_context({"text.parse_math": False}):  # names may contain `$`
        draw(reports).savefig(buffer, format="png")
    return buffer.getvalue()


def draw(reports: Sequence[Report]) -> Figure:
    """Draws the bars of each group, each on its own scale.

    Positions are computed here: a layout engine would take too long for hundreds of axes.
    """
    from matplotlib.figure import Figure

    shown, omitted = _limit_bars(group_measurements(reports))
    priced = any(report.price_per_hour is not None for report in reports)
    names = machine_names(reports)
    colors = {name: PALETTE[index % len(PALETTE)] for index, name in enumerate(names)}
    longest = max(
        (len(name) for entries in shown.values() for name in _bar_names(entries)), default=0
    )
    left = max(MIN_NAMES_WIDTH, MARGIN + LETTER_WIDTH * longest)
    width = left + SPEEDS_WIDTH + (GAP + COSTS_WIDTH if priced else 0) + MARGIN
    height = (
        sum(TITLE_HEIGHT + BAR_HEIGHT * len(entries) for entries in shown.values()) + 2 * MARGIN
    )
    figure = Figure(figsize=(width, height), dpi=DOTS_PER_INCH)
    top = height - MARGIN
    for title, entries in shown.items():
        top -= TITLE_HEIGHT
        bar_colors = [colors[entry.machine] for entry in entries]
        _draw_text(figure, MARGIN, top + 0.36, shorten(title, MAX_TITLE_LENGTH), weight="bold")
        axes = _add_axes(figure, left, top, SPEEDS_WIDTH, len(entries), "images/s")
        _draw_speeds(axes, entries, bar_colors)
        if priced:
            caption, costs_left = "cost of a million images", left + SPEEDS_WIDTH + GAP
            _draw_costs(
                _add_axes(figure, costs_left, top, COSTS_WIDTH, len(entries), caption),
                entries,
                bar_colors,
            )
        top -= BAR_HEIGHT * len(entries)
    if omitted:
        _draw_text(
            figure, MARGIN, 0.1, f"{omitted} more bars are in the table only", color=TEXT_COLOR
        )
    return figure


def _limit_bars(groups: Mapping[str, list[GroupEntry]]) -> tuple[dict[str, list[GroupEntry]], int]:
    """Returns the first MAX_BARS entries by title, and the number of the others."""
    remaining, shown = MAX_BARS, {}
    for title, entries in groups.items():
        if remaining:
            shown[title] = entries[:remaining]
            remaining -= len(shown[title])
    return shown, sum(map(len, groups.values())) - (MAX_BARS - remaining)


def _bar_names(entries: Sequence[GroupEntry]) -> list[str]:
    """Returns the names of machines, with batch sizes if these differ."""
    batches = {entry.measurement.batch_size for entry in entries}
    if len(batches) == 1:
        return [entry.machine for entry in entries]
    return [f"{entry.machine}, batch {entry.measurement.batch_size}" for entry in entries]


def _draw_text(figure: Figure, left: float, bottom: float, text: str, **style: Any) -> None:
    """Draws text at a position in inches from the lower left corner."""
    width, height = figure.get_size_inches()
    figure.text(left / width, bottom / height, text, fontsize=10, **style)


def _add_axes(
    figure: Figure, left: float, top: float, axes_width: float, bars: int, caption: str
) -> Any:
    """Adds axes for bars below `top`, with a caption above and no ticks."""
    width, height = figure.get_size_inches()
    axes_height = BAR_HEIGHT * bars
    axes = figure.add_axes(
        (left / width, (top - axes_height) / height, axes_width / width, axes_height / height)
    )
    _draw_text(figure, left, top + 0.07, caption, color=TEXT_COLOR)
    axes.set(ylim=(bars - 0.5, -0.5), xticks=[], yticks=[])  # the first on top
    axes.spines[["top", "right", "bottom"]].set_visible(False)
    return axes


def _draw_speeds(axes: Any, entries: Sequence[GroupEntry], bar_colors: Sequence[str]) -> None:
    rates = [entry.measurement.whole for entry in entries]
    medians = [rate.median for rate in rates]
    below = [rate.median - rate.low for rate in rates]
    above = [rate.high - rate.median for rate in rates]
    style = {"height": 0.7, "color": bar_colors, "ecolor": TEXT_COLOR, "capsize": 3}
    bars = axes.barh(range(len(rates)), medians, xerr=[below, above], **style)
    axes.bar_label(bars, [format_number(median) for median in medians], padding=5, fontsize=9)
    axes.set_yticks(range(len(entries)), _bar_names(entries), fontsize=9)
    axes.tick_params(length=0)
    axes.set_xlim(0, max(rate.high for rate in rates) * 1.2)  # space for the labels


def _draw_costs(axes: Any, entries: Sequence[GroupEntry], bar_colors: Sequence[str]) -> None:
    costs = [entry.cost or 0.0 for entry in entries]
    bars = axes.barh(range(len(costs)), costs, height=0.7, color=bar_colors)
    labels = ["no price" if entry.cost is None else format_cost(entry.cost) for entry in entries]
    axes.bar_label(bars, labels, padding=5, fontsize=9)
    axes.set_xlim(0, (max(costs) or 1.0) * 1.25)
