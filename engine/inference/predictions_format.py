"""Answers as rows of a file, one an image: CSV or JSON lines; and what stands in a row again.

Names are whatever the file system holds. In CSV bytes that are no UTF-8 stay as they are (Python
reads them with errors="surrogateescape"); in JSON they are escaped as the surrogates that stand for
them, so that the file is UTF-8 and `os.fsencode` gives the name back.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from engine.core.errors import choose
from engine.core.text import csv_cell, csv_path

if TYPE_CHECKING:
    from engine.inference.predict import Prediction

UNCERTAIN = "uncertain"  # the decision of an answer that has none


class Row(NamedTuple):
    """What of a row is read again: the name as it was given, and why there is no answer."""

    path: str
    problem: str


class Format(NamedTuple):
    """How answers are written, and read again.

    head(top): the bytes before the first row. rows(answers, top): those of some rows.
    lines(file): the whole rows of an open file, each as its bytes, from where it stands.
    read(line): what stands in a row.
    name(path): the name as a row has it.

    Raises:
      ValueError: by `read`, where the bytes are no row.
    """

    head: Callable[[int], bytes]
    rows: Callable[[Iterable[Prediction], int], bytes]
    lines: Callable[[Any], Iterator[bytes]]
    read: Callable[[bytes], Row]
    name: Callable[[str], str]


def decision(answer: Prediction) -> str:
    """In a word; nothing where the image could not be read."""
    return "" if answer.problem else answer.decision or UNCERTAIN


def of_path(name: str) -> Format:
    """The format that a file's ending asks for.

    Raises:
      UserError: there is none for it.
    """
    ending = name[name.rfind(".") :].lower() if "." in name else ""
    return choose(ending, FORMATS, f"{name}: ending")


def _short(share: float) -> float:
    """A float32 in as few digits as tell it from its neighbours."""
    return float(str(np.float32(share)))


def _csv(rows: Iterable[Sequence[Any]]) -> bytes:
    """All text in quotes: a spreadsheet that parts cells elsewhere leaves it together."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC).writerows(rows)
    return text.getvalue().encode("utf-8", "surrogateescape")


def _csv_head(top: int) -> bytes:
    pairs = [f"{what}_{rank}" for rank in range(1, top + 1) for what in ("label", "probability")]
    return _csv([["path", "decision", *pairs, "problem"]])


def _csv_rows(answers: Iterable[Prediction], top: int) -> bytes:
    return _csv(_csv_row(answer, top) for answer in answers)


def _csv_row(answer: Prediction, top: int) -> list[Any]:
    pairs: list[Any] = []
    for label, share in answer.labels:
        pairs += [csv_cell(label), _short(share)]
    pairs += [""] * (2 * top - len(pairs))
    decided = csv_cell(decision(answer))
    return [csv_path(answer.path), decided, *pairs, answer.problem or ""]


def _csv_lines(file: Any) -> Iterator[bytes]:
    """A name may hold a line break: a row is over where a line ends outside of quotes."""
    row, quotes = b"", 0
    for line in file:
        row, quotes = row + line, quotes + line.count(b'"')
        if quotes % 2 == 0 and row.endswith(b"\n"):
            yield row
            row, quotes = b"", 0


def _csv_read(line: bytes) -> Row:
    text = io.StringIO(line.decode("utf-8", "surrogateescape"), newline="")
    try:
        row: list = next(csv.reader(text, quoting=csv.QUOTE_NONNUMERIC, strict=True), [])
    except csv.Error as error:
        raise ValueError(str(error)) from None
    if len(row) < 3 or not isinstance(row[0], str) or not isinstance(row[-1], str):
        raise ValueError("no text at its ends")
    return Row(row[0], row[-1])


def _json_rows(answers: Iterable[Prediction], top: int) -> bytes:
    text = "".join(
        json.dumps(_json_row(answer), ensure_ascii=False, allow_nan=False) + "\n"
        for answer in answers
    )
    return text.encode("utf-8", "backslashreplace")  # which writes surrogates as JSON does


def _json_row(answer: Prediction) -> dict[str, Any]:
    found = [{"label": label, "probability": _short(share)} for label, share in answer.labels]
    return {
        "path": answer.path,
        "decision": decision(answer) or None,
        "predictions": found,
        "problem": answer.problem,
    }


def _json_lines(file: Any) -> Iterator[bytes]:
    return (line for line in file if line.endswith(b"\n"))


def _json_read(line: bytes) -> Row:
    try:
        value = json.loads(line)
        return Row(value["path"], value["problem"] or "")
    except (KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"no row: {error}") from None


FORMATS = {
    ".csv": Format(_csv_head, _csv_rows, _csv_lines, _csv_read, csv_path),
    ".jsonl": Format(lambda top: b"", _json_rows, _json_lines, _json_read, lambda path: path),
}
