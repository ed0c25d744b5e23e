"""Numbers as a page says them."""

from __future__ import annotations

import calendar
import datetime
import math

from engine.evaluation.intervals import Interval
from engine.loggers.console import duration

__all__ = ["count", "day", "money", "names", "percent", "seconds", "size", "span"]

_GAP = "\xa0"  # between a number and its unit
_UNITS = ("bytes", "kB", "MB", "GB", "TB")


def count(number: int, one: str, many: str | None = None) -> str:
    """`1 image`, `1,000 images`."""
    return f"{number:,}{_GAP}{one if number == 1 else many or one + 's'}"


def percent(share: float | None, digits: int = 2) -> str:
    """`98.70 %`; a dash for what is not known."""
    if share is None or not math.isfinite(share):
        return "–"
    return f"{share:.{digits}%}".replace("%", f"{_GAP}%")


def span(interval: Interval, digits: int = 2) -> str:
    """`97.8 to 99.2 %`."""
    return f"{100 * interval.low:.{digits}f} to {percent(interval.high, digits)}"


def day(when: str) -> str:
    """`24 November 2025`, of a date and time in ISO 8601."""
    moment = datetime.datetime.fromisoformat(when)
    return f"{moment.day}{_GAP}{calendar.month_name[moment.month]}{_GAP}{moment.year}"


def seconds(value: float) -> str:
    """`0.6 s`, `46 s`, `3 min 20 s`."""
    text = f"{value:.1f} s" if value < 10 else duration(value)
    return text.replace(" ", _GAP)


def size(number: float) -> str:
    """Bytes as `1.97 GB`, in units of 1,000."""
    for unit in _UNITS:
        if number < 1000 or unit == _UNITS[-1]:
            return f"{number:.3g}{_GAP}{unit}"
        number /= 1000
    raise AssertionError("unreachable")


def money(amount: float) -> str:
    """Two digits after the point, or as many as show two figures of a small sum: `0.0104`."""
    if amount == 0 or amount >= 1:
        return f"{amount:,.2f}"
    return f"{amount:.{1 - math.floor(math.log10(amount))}f}"


def names(items: list[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return " and ".join([part for part in (", ".join(items[:-1]), items[-1]) if part])
