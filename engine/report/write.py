"""Writes the files of a report: the page, its data, and the likely label errors."""

from __future__ import annotations

import csv
import io
import json
import os
import re
from pathlib import Path
from typing import Any

from engine.core.conversion import parse_json
from engine.core.errors import UserError
from engine.core.files import write as write_file
from engine.core.text import csv_cell, csv_path
from engine.report.markup import visible
from engine.report.page import page
from engine.report.report_data import ReportData, as_json

PAGE, DATA, SUSPECTS = "report.html", "report.json", "suspect_labels.csv"


def refuse(folder: Path) -> None:
    """Refuses a folder in which files with the names of a report are not from a report.

    Raises:
      UserError: there are such files.
    """
    there = [name for name in (PAGE, DATA, SUSPECTS) if os.path.lexists(folder / name)]
    if there and not _is_report(folder / DATA):
        raise UserError(
            f"--report={folder}: holds a {there[0]} that is not from a report; name another folder"
        )


def _is_report(path: Path) -> bool:
    try:
        return {"confusion_matrix", "calibration"} <= set(parse_json(path.read_text("utf-8")))
    except (OSError, UnicodeDecodeError, UserError, TypeError):
        return False


def write(folder: Path, data: ReportData) -> Path:
    """Writes the report and returns the path of the page.

    Raises:
      OSError: a file can't be written; no file is left incomplete.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_file(
        folder / DATA, f"{_json(as_json(data))}\n".encode()
    )  # first: it marks a report's folder
    if data.labels:
        write_file(folder / SUSPECTS, _suspects(data).encode())
    else:
        (folder / SUSPECTS).unlink(missing_ok=True)  # of an earlier report on other data
    write_file(folder / PAGE, page(data).encode())
    return folder / PAGE


def _json(values: dict[str, Any]) -> str:
    """Puts lists of numbers on one line: the matrix of a thousand classes has a million."""
    text = json.dumps(values, indent=2, allow_nan=False)
    # Strings in JSON contain no line breaks, so none of them matches.
    return re.sub(r"\[\n[-\d.e,\s]+\]", lambda match: " ".join(match[0].split()), text)


def _suspects(data: ReportData) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["path", "given", "suggested", "likely_wrong"])
    for suspect in data.labels.suspects if data.labels else ():
        labels = [csv_cell(visible(label)) for label in (suspect.given, suspect.suggested)]
        path = csv_path(visible(suspect.name))
        writer.writerow([path, *labels, "yes" if suspect.likely else "no"])
    return text.getvalue()
