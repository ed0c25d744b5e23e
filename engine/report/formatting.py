"""Numbers as text of a page."""

from __future__ import annotations

import calendar
import datetime
import math

from engine.core.text import byte_size, duration
from engine.evaluation.intervals import Interval

_GAP = "\xa0"  # between a number and its unit


def count(number: int, one: str, many: str | None = None) -> str:
    """`1 image`, `1,000 images`."""
    return f"{number:,}{_GAP}{one if number == 1 else many or one + 's'}"


def percent(share: float | None, digits: int = 2) -> str:
    """`98.70 %`; a dash for an unknown one."""
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
    return byte_size(number).replace(" ", _GAP)
