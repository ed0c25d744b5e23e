"""Writes the files of a report: the page, its data, and the likely label errors."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

from engine.core.conversion import parse_json
from engine.core.errors import UserError
from engine.core.files import write as write_file
from engine.core.files import write_csv
from engine.core.text import csv_cell, csv_path
from engine.report.markup import visible
from engine.report.page import page
from engine.report.report_data import ReportData, SuspectLabel, as_json

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
    text = json.dumps(as_json(data), indent=2, allow_nan=False)
    # Puts lists of numbers on one line: the matrix of a thousand classes has a million. Strings in
    # JSON contain no line breaks, so none of them matches.
    text = re.sub(r"\[\n[-\d.e,\s]+\]", lambda match: " ".join(match[0].split()), text)
    write_file(folder / DATA, f"{text}\n".encode())  # first: it marks a report's folder
    if data.labels:
        rows = [_suspect_row(suspect) for suspect in data.labels.suspects]
        write_csv(folder / SUSPECTS, ("path", "given", "suggested", "likely_wrong"), rows)
    else:
        (folder / SUSPECTS).unlink(missing_ok=True)  # of an earlier report on other data
    write_file(folder / PAGE, page(data).encode())
    return folder / PAGE


def _suspect_row(suspect: SuspectLabel) -> dict[str, str]:
    return {
        "path": csv_path(visible(suspect.name)),
        "given": csv_cell(visible(suspect.given)),
        "suggested": csv_cell(visible(suspect.suggested)),
        "likely_wrong": "yes" if suspect.likely else "no",
    }
