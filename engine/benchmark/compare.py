"""Compares the results of several machines, as a table and as an image."""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from engine.benchmark.measurement import Measurement
from engine.benchmark.report import (
    MAX_WIDTH,
    Report,
    align_columns,
    cpu_label,
    format_number,
    gpu_label,
    machine_label,
    whole_cells,
    workload_title,
)
from engine.core.text import money, printable, shorten

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_MACHINE_LENGTH = 44  # letters
# Inches: a group without its bars, a bar, and all groups (matplotlib writes fewer than 2**16 pixels
# on a side).
GROUP_HEIGHT, BAR_HEIGHT, MAX_HEIGHT, WIDTH = 0.8, 0.3, 600.0, 13.0
DOTS_PER_INCH = 100
MAX_GROUPS = 40  # in one image: the layout takes a tenth of a second for each
MAX_TITLE_LENGTH = 76  # letters
PALETTE = ("#4c72b0", "#dd8452", "#55a868", "#c44e52", "#8172b3", "#937860", "#da8bc3", "#8c8c8c")
TEXT_COLOR = "#333333"


@dataclasses.dataclass(frozen=True)
class GroupEntry:
    """A machine's measurement in a group, with its cost of a million images."""

    machine: str
    measurement: Measurement
    cost: float | None

    @property
    def speed(self) -> float:
        """Images/s, the median."""
        return self.measurement.whole.median


def cost_per_million(price_per_hour: float | None, images_per_second: float) -> float | None:
    """Returns the cost of a million images in the currency of the price; None without a price."""
    if price_per_hour is None:
        return None
    return price_per_hour / (3600 * images_per_second) * 1e6


def group_measurements(reports: Sequence[Report]) -> dict[str, list[GroupEntry]]:
    """Groups comparable measurements by title, the fastest machine first.

    A group has one backbone, image size, batch size, precision and phase. Where machines were
    measured at different batch sizes, the group holds the fastest of each machine.
    """
    workloads: dict[str, dict[str, dict[int, GroupEntry]]] = {}  # title, machine, batch size
    for machine, report in zip(machine_names(reports), reports, strict=True):
        for row in report.rows:
            cost = cost_per_million(report.price_per_hour, row.whole.median)
            sizes = workloads.setdefault(workload_title(row), {}).setdefault(machine, {})
            sizes[row.batch_size] = GroupEntry(machine, row, cost)
    groups = {}
    for title, machines in workloads.items():
        first, *others = machines.values()
        if all(other.keys() == first.keys() for other in others):
            for size in sorted(first):
                groups[f"{title}, batch {size}"] = [sizes[size] for sizes in machines.values()]
        else:
            best = [
                max(sizes.values(), key=lambda entry: entry.speed) for sizes in machines.values()
            ]
            groups[f"{title}, best batch size"] = best
    for entries in groups.values():
        entries.sort(key=lambda entry: -entry.speed)
    return groups


def machine_names(reports: Sequence[Report]) -> list[str]:
    """Returns a name for each report; equal names are numbered."""
    names = [shorten(machine_label(report), MAX_MACHINE_LENGTH) for report in reports]
    return [
        f"{name} #{names[: index + 1].count(name)}" if names.count(name) > 1 else name
        for index, name in enumerate(names)
    ]


def compare(reports: Sequence[Report]) -> str:
    """Formats the machines, then a table for each group."""
    lines = []
    for machine, report in zip(machine_names(reports), reports, strict=True):
        parts = [gpu_label(report) or "no GPU in use", cpu_label(report)]
        parts.append(f"TensorFlow {report.software.get('tensorflow', 'unknown')}")
        if report.price_per_hour is not None:
            parts.append(f"{report.price_per_hour:g} an hour")
        text = printable(f"{machine}: {', '.join(parts)}")
        lines += textwrap.wrap(text, MAX_WIDTH, subsequent_indent="  ")
    lines += ["", "images/s, ± half the interquartile range; cost of a million images"]
    for title, entries in group_measurements(reports).items():
        table = [["machine", "batch", "images/s", "efficiency", "memory", "cost"]]
        for entry in entries:
            row, cost = entry.measurement, "-" if entry.cost is None else money(entry.cost)
            table.append([entry.machine, f"{row.batch_size}", *whole_cells(row), cost])
        lines += ["", shorten(title, MAX_WIDTH), *align_columns(table)]
    return "\n".join(lines) + "\n"


def plot(reports: Sequence[Report]) -> bytes:
    """Returns the comparison as a PNG; omits costs without any price."""
    from engine.loggers.fonts import as_png

    return as_png(draw)(reports)


def draw(reports: Sequence[Report]) -> Figure:
    """Draws the bars of each group, each on its own scale, for the first MAX_GROUPS groups."""
    from matplotlib.figure import Figure

    groups = group_measurements(reports)
    shown = dict(list(groups.items())[:MAX_GROUPS])
    priced = any(report.price_per_hour is not None for report in reports)
    colors = {
        name: PALETTE[index % len(PALETTE)] for index, name in enumerate(machine_names(reports))
    }
    bars = [len(entries) for entries in shown.values()]
    height = min(GROUP_HEIGHT * len(bars) + BAR_HEIGHT * sum(bars), MAX_HEIGHT)
    figure = Figure(figsize=(WIDTH, height), dpi=DOTS_PER_INCH, layout="constrained")
    rows = figure.subplots(
        len(shown),
        1 + priced,
        squeeze=False,
        height_ratios=bars,
        width_ratios=(3, 2)[: 1 + priced],
    )
    for row, (title, entries) in zip(rows, shown.items(), strict=True):
        row[0].set_title(shorten(title, MAX_TITLE_LENGTH), loc="left", fontsize=9, weight="bold")
        bar_colors = [colors[entry.machine] for entry in entries]
        _draw_speeds(row[0], entries, bar_colors)
        if priced:
            _draw_costs(row[1], entries, bar_colors)
    if omitted := len(groups) - len(shown):
        figure.supxlabel(f"{omitted} more groups are in the table only", fontsize=10)
    return figure


def _draw_speeds(axes: Axes, entries: Sequence[GroupEntry], bar_colors: Sequence[str]) -> None:
    rates = [entry.measurement.whole for entry in entries]
    below = [rate.median - rate.low for rate in rates]
    above = [rate.high - rate.median for rate in rates]
    _draw_bars(
        axes,
        "images/s",
        [entry.speed for entry in entries],
        [format_number(entry.speed) for entry in entries],
        color=bar_colors,
        xerr=[below, above],
        ecolor=TEXT_COLOR,
        capsize=3,
    )
    axes.set_yticks(range(len(entries)), _bar_names(entries), fontsize=9)
    axes.set_xlim(0, max(rate.high for rate in rates) * 1.2)  # space for the labels


def _bar_names(entries: Sequence[GroupEntry]) -> list[str]:
    """Returns the names of machines, with batch sizes if these differ."""
    batches = {entry.measurement.batch_size for entry in entries}
    if len(batches) == 1:
        return [entry.machine for entry in entries]
    return [f"{entry.machine}, batch {entry.measurement.batch_size}" for entry in entries]


def _draw_costs(axes: Axes, entries: Sequence[GroupEntry], bar_colors: Sequence[str]) -> None:
    costs = [entry.cost or 0.0 for entry in entries]
    labels = ["no price" if entry.cost is None else money(entry.cost) for entry in entries]
    _draw_bars(axes, "cost of a million images", costs, labels, color=bar_colors)
    axes.set_xlim(0, (max(costs) or 1.0) * 1.25)


def _draw_bars(
    axes: Axes, caption: str, lengths: Sequence[float], labels: Sequence[str], **style: Any
) -> None:
    """Draws labelled bars, the first on top, below a caption and without ticks."""
    bars = axes.barh(range(len(lengths)), lengths, height=0.7, **style)
    axes.bar_label(bars, labels, padding=5, fontsize=9)
    axes.set(ylim=(len(lengths) - 0.5, -0.5), xticks=[], yticks=[])
    axes.set_xlabel(caption, loc="left", color=TEXT_COLOR, fontsize=9)
    axes.xaxis.set_label_position("top")
    axes.tick_params(length=0)
    axes.spines[["top", "right", "bottom"]].set_visible(False)
