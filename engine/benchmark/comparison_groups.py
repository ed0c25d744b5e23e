"""Groups the measurements of several machines that can be compared."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from engine.benchmark.measurement import Measurement
from engine.benchmark.report import Report, machine_label, workload_title
from engine.core.text import shorten

MAX_MACHINE_LENGTH = 44  # letters


@dataclasses.dataclass(frozen=True)
class GroupEntry:
    """A machine's measurement in a group, with its cost of a million images."""

    machine: str
    measurement: Measurement
    cost: float | None


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
    by_workload: dict[str, list[GroupEntry]] = {}
    for machine, report in zip(machine_names(reports), reports, strict=True):
        for row in report.rows:
            entry = GroupEntry(
                machine, row, cost_per_million(report.price_per_hour, row.whole.median)
            )
            by_workload.setdefault(workload_title(row), []).append(entry)
    groups = {}
    for title, entries in by_workload.items():
        for batch, selected in _by_batch_size(entries).items():
            groups[f"{title}, {batch}"] = sorted(
                selected, key=lambda e: -e.measurement.whole.median
            )
    return groups


def _by_batch_size(entries: Sequence[GroupEntry]) -> dict[str, list[GroupEntry]]:
    sizes: dict[str, dict[int, GroupEntry]] = {}
    for entry in entries:
        sizes.setdefault(entry.machine, {})[entry.measurement.batch_size] = entry
    first, *others = sizes.values()
    if all(other.keys() == first.keys() for other in others):
        return {
            f"batch {size}": [measured[size] for measured in sizes.values()]
            for size in sorted(first)
        }
    best = [
        max(m.values(), key=lambda entry: entry.measurement.whole.median) for m in sizes.values()
    ]
    return {"best batch size": best}


def machine_names(reports: Sequence[Report]) -> list[str]:
    """Returns a name for each report; equal names are numbered."""
    names = [shorten(machine_label(report), MAX_MACHINE_LENGTH) for report in reports]
    return [
        f"{name} #{names[: index + 1].count(name)}" if names.count(name) > 1 else name
        for index, name in enumerate(names)
    ]
