"""Predictions as rows of a CSV or JSON Lines file, one row per image, and reading them again.

File names can be any bytes. In CSV, bytes that are not UTF-8 are written as they are (Python reads
them with errors="surrogateescape"); in JSON their surrogates are escaped, so that the file is UTF-8
and `os.fsencode` returns the name.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from engine.core.errors import choose
from engine.core.text import csv_cell, csv_path

if TYPE_CHECKING:
    from engine.inference.predict import Prediction

UNCERTAIN = "uncertain"  # in place of a decision


class Row(NamedTuple):
    """What is read from a row: the image's name, and why it has no prediction ('' if it has)."""

    path: str
    problem: str


class Format(Protocol):
    """How predictions are written and read."""

    def header(self, top_k: int) -> bytes:
        """Returns the bytes before the first row."""

    def rows(self, predictions: Iterable[Prediction], top_k: int) -> bytes:
        """Returns the bytes of some rows."""

    def lines(self, file: Any) -> Iterator[bytes]:
        """Yields the complete rows of an open file from its position."""

    def read(self, line: bytes) -> Row:
        """Parses a row.

        Raises:
          ValueError: the bytes are not a row.
        """

    def name(self, path: str) -> str:
        """Returns an image's name as a row has it."""


def decision_text(prediction: Prediction) -> str:
    """Returns the decision, `uncertain`, or '' for an image without prediction."""
    return "" if prediction.problem else prediction.decision or UNCERTAIN


def format_of(name: str) -> Format:
    """Returns the format of a file name's ending.

    Raises:
      UserError: there is no format for it.
    """
    ending = name[name.rfind(".") :].lower() if "." in name else ""
    return choose(ending, FORMATS, f"{name}: ending")


def _shortest(share: float) -> float:
    """Rounds a float32 to as few digits as distinguish it from its neighbours."""
    return float(str(np.float32(share)))


class CsvFormat:
    """Quotes all text, so that spreadsheets with other separators do not split cells."""

    def header(self, top_k: int) -> bytes:
        ranks = range(1, top_k + 1)
        pairs = [f"{what}_{rank}" for rank in ranks for what in ("label", "probability")]
        return self._encode([["path", "decision", *pairs, "problem"]])

    def rows(self, predictions: Iterable[Prediction], top_k: int) -> bytes:
        return self._encode(self._row(prediction, top_k) for prediction in predictions)

    def lines(self, file: Any) -> Iterator[bytes]:
        """A name can hold a line break, so a row ends at a line break outside of quotes."""
        row, quotes = b"", 0
        for line in file:
            row, quotes = row + line, quotes + line.count(b'"')
            if quotes % 2 == 0 and row.endswith(b"\n"):
                yield row
                row, quotes = b"", 0

    def read(self, line: bytes) -> Row:
        text = io.StringIO(line.decode("utf-8", "surrogateescape"), newline="")
        try:
            row: list = next(csv.reader(text, quoting=csv.QUOTE_NONNUMERIC, strict=True), [])
        except csv.Error as error:
            raise ValueError(str(error)) from None
        if len(row) < 3 or not isinstance(row[0], str) or not isinstance(row[-1], str):
            raise ValueError("no text in the first and last cell")
        return Row(row[0], row[-1])

    def name(self, path: str) -> str:
        return csv_path(path)

    def _row(self, prediction: Prediction, top_k: int) -> list[Any]:
        pairs: list[Any] = []
        for label, share in prediction.labels:
            pairs += [csv_cell(label), _shortest(share)]
        pairs += [""] * (2 * top_k - len(pairs))
        decision = csv_cell(decision_text(prediction))
        return [csv_path(prediction.path), decision, *pairs, prediction.problem or ""]

    def _encode(self, rows: Iterable[Sequence[Any]]) -> bytes:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC).writerows(rows)
        return text.getvalue().encode("utf-8", "surrogateescape")


class JsonLinesFormat:
    """One JSON object per line."""

    def header(self, top_k: int) -> bytes:
        return b""

    def rows(self, predictions: Iterable[Prediction], top_k: int) -> bytes:
        values = (
            {
                "path": prediction.path,
                "decision": decision_text(prediction) or None,
                "predictions": [
                    {"label": label, "probability": _shortest(share)}
                    for label, share in prediction.labels
                ],
                "problem": prediction.problem,
            }
            for prediction in predictions
        )
        lines = (json.dumps(value, ensure_ascii=False, allow_nan=False) for value in values)
        # This error handler writes surrogates as JSON does.
        return "".join(f"{line}\n" for line in lines).encode("utf-8", "backslashreplace")

    def lines(self, file: Any) -> Iterator[bytes]:
        return (line for line in file if line.endswith(b"\n"))

    def read(self, line: bytes) -> Row:
        try:
            value = json.loads(line)
            return Row(value["path"], value["problem"] or "")
        except (KeyError, TypeError, RecursionError) as error:
            raise ValueError(f"not a row: {error}") from None

    def name(self, path: str) -> str:
        return path


FORMATS: dict[str, Format] = {".csv": CsvFormat(), ".jsonl": JsonLinesFormat()}
