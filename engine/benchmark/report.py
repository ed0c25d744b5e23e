"""The result of `bin/benchmark` on one machine: a JSON file and a table."""

from __future__ import annotations

import dataclasses
import json
import re
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from engine.benchmark.measurement import (
    STAGES,
    Measurement,
    Rate,
    efficiency,
    require_name,
)
from engine.benchmark.text_table import MAX_WIDTH, align_columns, format_rate
from engine.core.conversion import convert
from engine.core.errors import UserError, require
from engine.core.text import byte_size, shorten

VERSION = 1  # of the file format; raised with every incompatible change
MAX_REASON_LENGTH = 200  # letters of a file's error
MAX_FILE_NAME_LENGTH = 100  # letters


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
        require_name(self.when, "when")
        if self.instance_type is not None:
            require_name(self.instance_type, "instance_type")
        require(bool(self.rows), "rows is empty; allowed: one or more")
        _check_machine(self.machine)
        for package, version in self.software.items():
            require_name(package, "software: key")
            require_name(version, f"software.{package}")

    def to_json(self) -> str:
        values = {"version": VERSION, **dataclasses.asdict(self)}
        return json.dumps(values, indent=2, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str, source: str) -> Report:
        """Parses the text of a result file; `source` names the file in errors.

        Raises:
          UserError: it is not a result of this version.
        """
        try:
            return convert(_parse(text), cls, "report")
        except (UserError, ValueError, OverflowError, RecursionError) as error:
            reason = shorten(str(error).replace("\n", " "), MAX_REASON_LENGTH)
            raise UserError(
                f"{source}: is not a result of this version of bin/benchmark ({reason}); "
                "name a file that bin/benchmark wrote with --out="
            ) from None


def load(path: Path) -> Report:
    """Loads a result file.

    Raises:
      UserError: it can't be read, or is not a result of this version.
    """
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise UserError(
            f"{path}: can't be read ({reason}); name a file that bin/benchmark wrote with --out="
        ) from None
    return Report.from_json(text, str(path))


def _parse(text: str) -> dict[str, Any]:
    """Parses JSON, checks and drops the version, and converts the rates of stages."""
    values = json.loads(text, parse_constant=_refuse_constant)
    require(isinstance(values, dict), f"{type(values).__name__}; allowed: an object")
    version = values.pop("version", None)
    require(
        type(version) is int and version == VERSION,
        f"version={version!r}; allowed: {VERSION}",
    )
    if isinstance(values.get("rows"), list):
        values["rows"] = [_convert_stages(row) for row in values["rows"]]
    return values


def _refuse_constant(constant: str) -> NoReturn:
    raise UserError(f"{constant}; allowed: numbers")


def _convert_stages(row: Any) -> Any:
    stages = row.get("stages") if isinstance(row, dict) else None
    if not isinstance(stages, dict):
        return row  # `convert` reports the error
    return row | {"stages": {name: convert(stages[name], Rate, "stage") for name in stages}}


def _check_machine(machine: Mapping[str, Any]) -> None:
    """Checks the values of a machine that the tables show."""
    require_name(machine.get("cpu"), "machine.cpu")
    cores, gpus = machine.get("cores"), machine.get("gpus")
    valid = type(cores) is int and 0 < cores < 2**31
    require(valid, f"machine.cores={cores!r}; allowed: 1 or more")
    valid = isinstance(gpus, list | tuple) and all(isinstance(gpu, dict) for gpu in gpus)
    require(valid, "machine.gpus has another type; allowed: a list of objects")
    for name in gpu_names(machine):
        require_name(name, "machine.gpus: name")
    if machine.get("driver") is not None:
        require_name(machine["driver"], "machine.driver")


def gpu_names(machine: Mapping[str, Any]) -> list[str]:
    """Returns the name of every GPU, in order."""
    return [gpu.get("name") for gpu in machine["gpus"]]


def machine_label(report: Report) -> str:
    """Returns a short name of the machine: its instance type, GPUs or processor."""
    return report.instance_type or gpu_label(report) or cpu_label(report)


def gpu_label(report: Report) -> str:
    """Returns the names of the GPUs with their counts; empty without a GPU."""
    names = gpu_names(report.machine)
    counts = {name: names.count(name) for name in names}
    return ", ".join(f"{count} x {name}" if count > 1 else name for name, count in counts.items())


def cpu_label(report: Report) -> str:
    """Returns the processor with its number of cores."""
    cores = report.machine["cores"]
    return f"{report.machine['cpu']}, {cores} {'core' if cores == 1 else 'cores'}"


def file_name(report: Report) -> str:
    """Returns a file name for the result, unique for each machine and time."""
    text = f"{machine_label(report)} {report.when.replace(':', '')}"
    words = re.findall(r"[A-Za-z0-9.-]+", text)
    return "_".join(words)[:MAX_FILE_NAME_LENGTH].lstrip(".-") + ".json"


def workload_title(row: Measurement) -> str:
    """Describes the workload without its batch size."""
    height, width = row.image_size
    return f"{row.backbone} {height}x{width}, {row.precision}, phase {row.phase}"


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
    head = ["batch", *STAGES, "whole", "efficiency", "memory"]
    cells = [
        [
            f"{row.batch_size}",
            *(format_rate(row.stages.get(stage)) for stage in STAGES),
            format_rate(row.whole),
            f"{efficiency(row):.0%}",
            peak_memory(row),
        ]
        for row in sorted(rows, key=lambda row: row.batch_size)
    ]
    return align_columns(head, cells)


def peak_memory(row: Measurement) -> str:
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
    return [line for part in parts for line in textwrap.wrap(part, MAX_WIDTH)]
