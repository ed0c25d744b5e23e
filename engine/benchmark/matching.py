"""Which measurements of several machines can be compared with each other."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from engine.benchmark.report import Report, label, workload
from engine.benchmark.rows import Row
from engine.core.text import shorten

LABEL = 44  # letters of a machine's name


@dataclasses.dataclass(frozen=True)
class Entry:
    """What one machine did in one block of the comparison."""

    machine: str
    row: Row
    cost: float | None


def cost(price_per_hour: float | None, images_per_second: float) -> float | None:
    """What a million images cost, in the currency of the price."""
    if price_per_hour is None:
        return None
    return price_per_hour / (3600 * images_per_second) * 1e6


def blocks(reports: Sequence[Report]) -> dict[str, list[Entry]]:
    """What can be compared, by title: the fastest machine first.

    A block is one backbone, size, batch size, precision and phase. Where the machines were measured
    at different batch sizes, each of them stands for itself with its best.
    """
    by_workload: dict[str, list[Entry]] = {}
    for machine, report in zip(machines(reports), reports, strict=True):
        for row in report.rows:
            entry = Entry(machine, row, cost(report.price_per_hour, row.whole.median))
            by_workload.setdefault(workload(row), []).append(entry)
    found = {}
    for title, entries in by_workload.items():
        for words, chosen in _by_batch_size(entries).items():
            found[f"{title}, {words}"] = sorted(chosen, key=lambda e: -e.row.whole.median)
    return found


def _by_batch_size(entries: Sequence[Entry]) -> dict[str, list[Entry]]:
    sizes: dict[str, dict[int, Entry]] = {}
    for entry in entries:
        sizes.setdefault(entry.machine, {})[entry.row.batch_size] = entry
    first, *others = sizes.values()
    if all(other.keys() == first.keys() for other in others):
        return {
            f"batch {size}": [measured[size] for measured in sizes.values()]
            for size in sorted(first)
        }
    best = [max(m.values(), key=lambda entry: entry.row.whole.median) for m in sizes.values()]
    return {"best batch size": best}


def machines(reports: Sequence[Report]) -> list[str]:
    """A name for each report; those that would have the same are numbered."""
    names = [shorten(label(report), LABEL) for report in reports]
    return [
        f"{name} #{names[: place + 1].count(name)}" if names.count(name) > 1 else name
        for place, name in enumerate(names)
    ]
