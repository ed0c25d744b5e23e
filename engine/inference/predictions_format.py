"""Predictions as rows of a CSV or JSON Lines file, one row per image.

File names can be any bytes. In CSV, bytes that are not UTF-8 are written as they are (Python reads
them with errors="surrogateescape"); in JSON their surrogates are escaped, so that the file is UTF-8
and `os.fsencode` returns the name.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from engine.core.errors import choose
from engine.core.text import csv_cell, csv_path, json_text

if TYPE_CHECKING:
    from engine.inference.predictions import Prediction

UNCERTAIN = "uncertain"  # in place of a decision


class Format(NamedTuple):
    """How predictions are written.

    header: top_k -> the bytes before the first row.
    rows: predictions, top_k -> the bytes of their rows.
    """

    header: Callable[[int], bytes]
    rows: Callable[[Iterable[Prediction], int], bytes]


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


def _csv_header(top_k: int) -> bytes:
    ranks = range(1, top_k + 1)
    pairs = [f"{what}_{rank}" for rank in ranks for what in ("label", "probability")]
    return _encode_csv([["path", "decision", *pairs, "problem"]])


def _csv_rows(predictions: Iterable[Prediction], top_k: int) -> bytes:
    rows = []
    for prediction in predictions:
        pairs: list[Any] = []
        for label, share in prediction.labels:
            pairs += [csv_cell(label), _shortest(share)]
        pairs += [""] * (2 * top_k - len(pairs))
        decision = csv_cell(decision_text(prediction))
        rows.append([csv_path(prediction.path), decision, *pairs, prediction.problem or ""])
    return _encode_csv(rows)


def _encode_csv(rows: Iterable[Sequence[Any]]) -> bytes:
    """Quotes all text, so that spreadsheets with other separators do not split cells."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC).writerows(rows)
    return text.getvalue().encode("utf-8", "surrogateescape")


def as_json(prediction: Prediction) -> dict[str, Any]:
    """Returns the values of a row in JSON."""
    return {
        "path": prediction.path,
        "decision": decision_text(prediction) or None,
        "predictions": [
            {"label": label, "probability": _shortest(share)} for label, share in prediction.labels
        ],
        "problem": prediction.problem,
    }


def _json_rows(predictions: Iterable[Prediction], _: int) -> bytes:
    rows = map(as_json, predictions)
    return "".join(f"{json_text(row, allow_nan=False)}\n" for row in rows).encode()


FORMATS = {".csv": Format(_csv_header, _csv_rows), ".jsonl": Format(lambda _: b"", _json_rows)}
