"""What `bin/benchmark` leaves behind for one machine: a JSON file, and a table for people."""

from __future__ import annotations

import dataclasses
import json
import re
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from engine.benchmark.layout import WIDTH, columns, rate
from engine.benchmark.rows import STAGES, Rate, Row, allowed, efficiency, explain, require_name
from engine.core.conversion import convert
from engine.core.errors import UserError, require
from engine.core.text import byte_size, shorten

__all__ = [
    "Rate",
    "Report",
    "Row",
    "allowed",
    "efficiency",
    "explain",
    "file_name",
    "label",
    "load",
    "table",
]

VERSION = 1  # of the file; raised when a program that reads the old one would misread the new one
REASON = 200  # letters of what is wrong with a file
FILE_NAME = 100  # letters of a file's name


@dataclasses.dataclass(frozen=True)
class Report:
    """The measurements of one machine.

    `machine` and `software` are those of `engine.runtime.hardware`; `instance_type` is the cloud's
    name for the machine; `price_per_hour` is in any currency; `when` is a date and time;
    `command` is what was run.
    """

    machine: Mapping[str, Any]
    software: Mapping[str, str]
    instance_type: str | None
    price_per_hour: float | None
    when: str
    command: str
    rows: tuple[Row, ...]

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
        """The report that the text of a file holds; `source` names the file in the error.

        Raises:
          UserError: it is no such file.
        """
        try:
            return convert(_values(text), cls, "report")
        except (UserError, ValueError, OverflowError, RecursionError) as error:
            reason = shorten(str(error).replace("\n", " "), REASON)
            raise UserError(
                f"{source}: no result of this version of bin/benchmark ({reason}); "
                "name a file that bin/benchmark wrote with --out="
            ) from None


def load(path: Path) -> Report:
    """The report in a file.

    Raises:
      UserError: it can't be read, or is no such file.
    """
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text in UTF-8"
        raise UserError(
            f"{path}: can't be read ({reason}); name a file that bin/benchmark wrote with --out="
        ) from None
    return Report.from_json(text, str(path))


def _values(text: str) -> dict[str, Any]:
    """The file as `convert` takes it: without its version, and with the rates in its mappings."""
    values = json.loads(text, parse_constant=_refuse)
    require(isinstance(values, dict), f"{type(values).__name__}; allowed: an object")
    version = values.pop("version", None)
    right = type(version) is int and version == VERSION
    require(right, f"version={version!r}; allowed: {VERSION}")
    if isinstance(values.get("rows"), list):
        values["rows"] = [_with_rates(row) for row in values["rows"]]
    return values


def _refuse(constant: str) -> NoReturn:
    raise UserError(f"{constant}; allowed: numbers")


def _with_rates(row: Any) -> Any:
    stages = row.get("stages") if isinstance(row, dict) else None
    if not isinstance(stages, dict):
        return row  # convert says what is wrong with it
    return row | {"stages": {name: convert(stages[name], Rate, "stage") for name in stages}}


def _check_machine(machine: Mapping[str, Any]) -> None:
    """What the tables show of a machine has to be there and fit in."""
    require_name(machine.get("cpu"), "machine.cpu")
    cores, listed = machine.get("cores"), machine.get("gpus")
    right = type(cores) is int and 0 < cores < 2**31
    require(right, f"machine.cores={cores!r}; allowed: 1 or more")
    right = isinstance(listed, list | tuple) and all(isinstance(gpu, dict) for gpu in listed)
    require(right, "machine.gpus is something else; allowed: a list of objects")
    for name in gpu_names(machine):
        require_name(name, "machine.gpus: name")
    if machine.get("driver") is not None:
        require_name(machine["driver"], "machine.driver")


def gpu_names(machine: Mapping[str, Any]) -> list[str]:
    return [gpu.get("name") for gpu in machine["gpus"]]


def label(report: Report) -> str:
    """The machine in a word: its instance type, else its GPUs, else its processor."""
    return report.instance_type or gpus(report) or processor(report)


def gpus(report: Report) -> str:
    names = gpu_names(report.machine)
    counts = {name: names.count(name) for name in names}
    return ", ".join(f"{count} x {name}" if count > 1 else name for name, count in counts.items())


def processor(report: Report) -> str:
    cores = report.machine["cores"]
    return f"{report.machine['cpu']}, {cores} {'core' if cores == 1 else 'cores'}"


def file_name(report: Report) -> str:
    """Where a folder is given for the result: one name for each machine and time."""
    text = f"{label(report)} {report.when.replace(':', '')}"
    words = re.findall(r"[A-Za-z0-9.-]+", text)
    return "_".join(words)[:FILE_NAME].lstrip(".-") + ".json"


def workload(row: Row) -> str:
    """What was measured, less the batch size."""
    height, width = row.image_size
    return f"{row.backbone} {height}x{width}, {row.precision}, phase {row.phase}"


def table(report: Report) -> str:
    """The machine, then a block for each workload with a line for each batch size."""
    lines = [*_machine_lines(report), "", "images/s, ± half the distance between the quartiles"]
    blocks: dict[str, list[Row]] = {}
    for row in report.rows:
        blocks.setdefault(workload(row), []).append(row)
    for title, rows in blocks.items():
        lines += ["", shorten(title, WIDTH), *_block(rows)]
    return "\n".join(lines) + "\n"


def _block(rows: Sequence[Row]) -> list[str]:
    head = ["batch", *STAGES, "whole", "efficiency", "memory"]
    cells = [
        [
            f"{row.batch_size}",
            *(rate(row.stages.get(stage)) for stage in STAGES),
            rate(row.whole),
            f"{efficiency(row):.0%}",
            peak(row),
        ]
        for row in sorted(rows, key=lambda row: row.batch_size)
    ]
    return columns(head, cells)


def peak(row: Row) -> str:
    """The most memory that was used: of a GPU where there is one, else of the host."""
    on_gpus = [count for name, count in row.peak_memory.items() if name.startswith("gpu")]
    most = max(on_gpus, default=row.peak_memory.get("host"))
    return "-" if most is None else byte_size(most)


def _machine_lines(report: Report) -> list[str]:
    price, driver = report.price_per_hour, report.machine.get("driver")
    used = gpus(report) or "no GPU in use"
    parts = [
        report.instance_type or "",
        used + (f", driver {driver}" if driver else ""),
        processor(report),
        ", ".join(f"{package} {version}" for package, version in report.software.items()),
        report.when + (f", {price:g} an hour" if price is not None else ""),
    ]
    return [line for part in parts for line in textwrap.wrap(part, WIDTH)]
