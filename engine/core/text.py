"""Numbers and names as text: sizes, durations, money, printable names, cells of a CSV file."""

from __future__ import annotations

import json
import math
import shlex
from contextlib import suppress
from pathlib import Path
from typing import Any

_PROGRAMS = Path(__file__).parents[2] / "bin"  # in a checkout
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def printable(text: str, keep: str = "") -> str:
    r"""Escapes what a terminal would obey or a UTF-8 file can't hold.

    A byte of a file name that is no UTF-8 is shown as `\xff`, a line break as `\n`: a file name
    can't forge lines of a report.

    Args:
      keep: characters that stay as they are.
    """
    return "".join(c if c.isprintable() or c in keep else _escaped(c) for c in text)


def _escaped(character: str) -> str:
    if "\udc80" <= character <= "\udcff":  # see os.fsdecode
        return f"\\x{ord(character) - 0xDC00:02x}"
    return repr(character)[1:-1]


def json_text(value: Any, **settings: Any) -> str:
    """Returns JSON in which letters of any language stay and what a terminal would obey is escaped.

    JSON leaves the control characters U+0080 to U+009F as they are.

    Args:
      settings: of `json.dumps`.
    """
    lines = json.dumps(value, ensure_ascii=False, **settings).split("\n")
    return "\n".join(line if line.isprintable() else _escaped_json(line) for line in lines)


def _escaped_json(line: str) -> str:
    return "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in line)


def program(name: str) -> str:
    """What a user types: `bin/train` in a checkout, else `unfreeze train`."""
    return f"bin/{name}" if (_PROGRAMS / name).is_file() else f"unfreeze {name}"


def command_line(name: str, *arguments: str) -> str:
    """A line for a shell: `bin/train --seed=1`."""
    return f"{program(name)} {shlex.join(arguments)}".rstrip()


def shorten(text: str, limit: int) -> str:
    """Cuts what is longer than `limit` characters and marks the cut by an ellipsis."""
    return text if len(text) <= limit else text[: limit - 1] + "…"


def counted(count: int, one: str, many: str) -> str:
    """`1 image is`, `1,000 images are`."""
    return f"{count:,} {one if count == 1 else many}"


def duration(seconds: float) -> str:
    """`45 s`, `3 min 20 s`, `2 h 5 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def byte_size(count: float) -> str:
    """`12 bytes`, `445 MB`, `1.97 GB`: three significant digits, in units of 1,000."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 999.5:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:,.3g} TB" if count < 999.5 else f"{count:,.0f} TB"


def money(amount: float) -> str:
    """Two decimals, or for a sum below 1 as many as show three significant digits: `0.0104`."""
    if amount == 0 or amount >= 1:
        return f"{amount:,.2f}"
    return f"{amount:.{max(2, 2 - math.floor(math.log10(amount)))}f}"


def csv_cell(value: str) -> str:
    """Puts an apostrophe before text that a spreadsheet would take for a formula.

    A number such as `-1` stays as it is. A class named `=x` is `=x` in JSON and `'=x` in CSV; a
    manifest is not written so, since its reader takes every character literally.
    Source: OWASP, "CSV Injection".
    """
    if not value.startswith(_FORMULA):
        return value
    with suppress(ValueError):
        float(value)
        return value
    return f"'{value}"


def csv_path(path: str) -> str:
    """Writes a path that a spreadsheet would take for a formula as another name of that file."""
    return f"./{path}" if path.startswith(_FORMULA) else path
