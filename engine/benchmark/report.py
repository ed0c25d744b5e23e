"""The result of `bin/benchmark` on one machine: a JSON file and a table."""

from __future__ import annotations

import collections
import dataclasses
import json
import re
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from engine.benchmark.measurement import STAGES, Measurement, Rate, efficiency
from engine.core.conversion import convert, parse_json
from engine.core.errors import UserError, require
from engine.core.text import byte_size, counted, printable, program, shorten

VERSION = 1  # of the file format; raised with every incompatible change
MAX_REASON_LENGTH = 200  # letters of a file's error
MAX_FILE_NAME_LENGTH = 100  # letters
MAX_WIDTH = 100  # of a table's line, in letters


@dataclasses.dataclass(frozen=True)
class Report:
    """The measurements of one machine.

    machine, software: as described by `engine.runtime.hardware`.
    instance_type: the cloud's name for the machine; None if unknown.
    price_per_hour: of the machine, in any currency.
    when: date and time, ISO 8601.
    command: the command that measured.
    rows: at least one measurement.

    Raises:
      UserError: a value is out of range.
    """

    machine: Mapping[str, Any]
    software: Mapping[str, str]
    instance_type: str | None
    price_per_hour: float | None
    when: str
    command: str
    rows: tuple[Measurement, ...]

    def __post_init__(self) -> None:
        price = self.price_per_hour
        require(
            price is None or 0 <= price < 1e9,
            f"price_per_hour={price}; allowed: a number, 0 or more",
        )
        require(bool(self.rows), "rows is empty; allowed: one or more")
        convert(self.machine.get("cpu"), str, "machine.cpu")
        convert(self.machine.get("cores"), int, "machine.cores")
        for gpu in convert(self.machine.get("gpus"), list[Mapping[str, Any]], "machine.gpus"):
            convert(gpu.get("name"), str, "machine.gpus: name")

    def to_json(self) -> str:
        values = {"version": VERSION, **dataclasses.asdict(self)}
        return json.dumps(values, indent=2, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Report:
        """Parses the text of a result file.

        Raises:
          UserError: it is not a result of this version.
        """
        values = parse_json(text)
        require(isinstance(values, dict), f"{type(values).__name__}; allowed: an object")
        version = values.pop("version", None)
        require(
            type(version) is int and version == VERSION,
            f"version={version!r:.{MAX_REASON_LENGTH}}; allowed: {VERSION}",
        )
        return convert(values, cls, "report")


def load(path: Path) -> Report:
    """Loads a result file.

    Raises:
      UserError: it can't be read, or is not a result of this version.
    """
    hint = f"name a file that {program('benchmark')} wrote with --out="
    try:
        return Report.from_json(path.read_text("utf-8"))
    except OSError as error:
        raise UserError(f"{path}: can't be read ({error.strerror}); {hint}") from None
    except (UserError, UnicodeDecodeError, RecursionError) as error:
        raise UserError(
            f"{path}: is not a result of this version of {program('benchmark')} "
            f"({shorten(str(error), MAX_REASON_LENGTH)}); {hint}"
        ) from None


def machine_label(report: Report) -> str:
    """Returns a short name of the machine: its instance type, GPUs or processor."""
    return printable(report.instance_type or "") or gpu_label(report) or cpu_label(report)


def gpu_label(report: Report) -> str:
    """Returns the names of the GPUs with their counts; empty without a GPU."""
    counts = collections.Counter(printable(gpu["name"]) for gpu in report.machine["gpus"])
    return ", ".join(f"{count} x {name}" if count > 1 else name for name, count in counts.items())


def cpu_label(report: Report) -> str:
    """Returns the processor with its number of cores."""
    return (
        f"{printable(report.machine['cpu'])}, {counted(report.machine['cores'], 'core', 'cores')}"
    )


def file_name(label: str, when: str) -> str:
    """Returns a file name for the result of a machine, or of another label, at a time."""
    words = re.findall(r"[A-Za-z0-9.-]+", f"{label} {when.replace(':', '')}")
    return "_".join(words)[:MAX_FILE_NAME_LENGTH].lstrip(".-") + ".json"


def workload_title(row: Measurement) -> str:
    """Describes the workload without its batch size."""
    height, width = row.image_size
    return printable(f"{row.backbone} {height}x{width}, {row.precision}, phase {row.phase}")


def format_table(report: Report) -> str:
    """Formats the machine, then a block per workload with a line per batch size."""
    lines = [*_machine_lines(report), "", "images/s, ± half the interquartile range"]
    blocks: dict[str, list[Measurement]] = {}
    for row in report.rows:
        blocks.setdefault(workload_title(row), []).append(row)
    for title, rows in blocks.items():
        lines += ["", shorten(title, MAX_WIDTH), *_workload_table(rows)]
    return "\n".join(lines) + "\n"


def _workload_table(rows: Sequence[Measurement]) -> list[str]:
    table = [["batch", *STAGES, "whole", "efficiency", "memory"]]
    for row in sorted(rows, key=lambda row: row.batch_size):
        stages = [format_rate(row.stages[name]) if name in row.stages else "-" for name in STAGES]
        table.append([f"{row.batch_size}", *stages, *whole_cells(row)])
    return align_columns(table)


def whole_cells(row: Measurement) -> list[str]:
    """Returns the cells of the whole: its rate, its efficiency, and the peak memory."""
    return [format_rate(row.whole), f"{efficiency(row):.0%}", _peak_memory(row)]


def _peak_memory(row: Measurement) -> str:
    """Formats the peak memory: the largest of the GPUs, or else the host's."""
    gpu_bytes = [count for name, count in row.peak_memory.items() if name.startswith("gpu")]
    largest = max(gpu_bytes, default=row.peak_memory.get("host"))
    return "-" if largest is None else byte_size(largest)


def _machine_lines(report: Report) -> list[str]:
    price, driver = report.price_per_hour, report.machine.get("driver")
    used = gpu_label(report) or "no GPU in use"
    parts = [
        report.instance_type or "",
        used + (f", driver {driver}" if driver else ""),
        cpu_label(report),
        ", ".join(f"{package} {version}" for package, version in report.software.items()),
        report.when + (f", {price:g} an hour" if price is not None else ""),
    ]
    return [line for part in parts for line in textwrap.wrap(printable(part), MAX_WIDTH)]


def format_number(value: float) -> str:
    """Formats at least three significant digits: 0.0123, 1.23, 12.3, 1,234."""
    return f"{value:,.0f}" if value >= 100 else f"{value:#.3g}".rstrip(".")


def format_rate(value: Rate) -> str:
    """Formats images/s with their spread."""
    return f"{format_number(value.median)} ±{value.spread:.0%}"


def align_columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Aligns the first column left and the others, numbers, right."""
    first, *widths = (max(map(len, column)) for column in zip(*rows, strict=True))
    return ["  ".join([row[0].ljust(first), *map(str.rjust, row[1:], widths)]) for row in rows]
