"""Numbers and columns as the tables of `bin/benchmark` show them."""

from __future__ import annotations

from collections.abc import Sequence

from engine.benchmark.rows import Rate
from engine.core import text

WIDTH = 100  # letters in a line


def number(value: float) -> str:
    """Three digits or more that count: 0.0123, 1.23, 12.3, 1,234, 123k, 1.23M."""
    if value < 1:
        return f"{value:.3g}"
    if value < 100:
        return f"{value:.2f}" if value < 10 else f"{value:.1f}"
    if value < 1e5:
        return f"{value:,.0f}"
    return f"{value / 1e3:,.0f}k" if value < 1e6 else f"{value / 1e6:,.2f}M"


def rate(value: Rate | None) -> str:
    """Images a second with their spread, or a dash for what was not measured."""
    return "-" if value is None else f"{number(value.median)} ±{value.spread:.0%}"


def money(value: float | None) -> str:
    """In whatever currency, or a dash where no price is known."""
    return "-" if value is None else text.money(value)


def columns(head: Sequence[str], rows: Sequence[Sequence[str]], texts: int = 0) -> list[str]:
    """Lines under a head: the first `texts` columns at the left, the others, numbers, right."""
    table = [head, *rows]
    widths = [max(len(row[place]) for row in table) for place in range(len(head))]
    return [
        "  ".join(
            cell.ljust(width) if place < texts else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in table
    ]
