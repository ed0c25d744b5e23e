"""The history of a run, `history.csv`: a row for each epoch."""

from __future__ import annotations

import csv
import io
from typing import Any

from engine.core import digests
from engine.core.files import write_csv
from engine.runs.directory import RunDirectory

COLUMNS = (
    *("phase", "epoch", "step", "train_loss", "train_accuracy", "val_loss", "val_accuracy"),
    *("learning_rate", "images_per_second", "data_wait_fraction", "seconds", "resident_bytes"),
)


def write_history(run: RunDirectory, rows: list[dict[str, Any]]) -> None:
    columns = [{name: row[name] for name in COLUMNS} for row in rows]
    write_csv(run.history, COLUMNS, columns, digests.write)


def read_history(run: RunDirectory) -> list[dict[str, str]]:
    """Returns the rows as they are written.

    Raises:
      OSError: there is no file, or it can't be read.
      UserError: it is damaged.
    """
    text = digests.read(run.history).decode("utf-8")
    return list(csv.DictReader(io.StringIO(text, newline="")))
