"""Formats numbers and columns for the tables of `bin/benchmark`."""

from __future__ import annotations

from collections.abc import Sequence

from engine.benchmark.measurement import Rate
from engine.core import text

MAX_WIDTH = 100  # of a line, in letters


def format_number(value: float) -> str:
    """Formats at least three significant digits: 0.0123, 1.23, 12.3, 1,234, 123k, 1.23M."""
    if value < 1:
        return f"{value:.3g}"
    if value < 100:
        return f"{value:.2f}" if value < 10 else f"{value:.1f}"
    if value < 1e5:
        return f"{value:,.0f}"
    return f"{value / 1e3:,.0f}k" if value < 1e6 else f"{value / 1e6:,.2f}M"


def format_rate(value: Rate | None) -> str:
    """Formats images/s with their spread; a dash if not measured."""
    return "-" if value is None else f"{format_number(value.median)} ±{value.spread:.0%}"


def format_cost(value: float | None) -> str:
    """Formats a cost in any currency; a dash if unknown."""
    return "-" if value is None else text.money(value)


def align_columns(
    head: Sequence[str], rows: Sequence[Sequence[str]], text_columns: int = 0
) -> list[str]:
    """Aligns rows under a head: the first `text_columns` left, the others, numbers, right."""
    table = [head, *rows]
    widths = [max(len(row[index]) for row in table) for index in range(len(head))]
    return [
        "  ".join(
            cell.ljust(width) if index < text_columns else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in table
    ]
