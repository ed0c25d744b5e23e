"""Rows of predictions, read by csv, json and a spreadsheet's rules, whatever the names are."""

import csv
import io
import json
import os

import numpy as np
import pytest

from engine.core.errors import UserError
from engine.inference.predictions import Prediction
from engine.inference.predictions_format import FORMATS, format_of

ODD_NAMES = (
    "plain.jpg", "two\nlines.jpg", 'a"b.jpg', "a,b;=1+1.jpg", "\r.jpg", "große Katze🐈.jpg",
    os.fsdecode(b"\xff\xfe.jpg"), "\\udcff.jpg", "\u2028.jpg", "=1+1.jpg", "-rf.png", "@x", "+1",
    "\tx", "", " ", "https://a.org/b?c=1,2", '"', '""\n"',
)  # fmt: skip
SURE = Prediction("a.jpg", (("cat", 0.75), ("dog", 0.25)), "cat")
UNSURE = Prediction("b.jpg", (("dog", 0.5), ("cat", 0.5)), None)
UNREADABLE = Prediction("c.jpg", problem="empty file")


def write(name: str, predictions, top_k: int) -> bytes:
    return FORMATS[name].header(top_k) + FORMATS[name].rows(predictions, top_k)


def read_csv(data: bytes) -> list[dict]:
    text = data.decode("utf-8", "surrogateescape")
    return list(csv.DictReader(io.StringIO(text, newline="")))


def with_name(path: str) -> Prediction:
    return Prediction(path, (("x", 0.5),), "x")


def test_csv_has_one_row_per_image():
    rows = read_csv(write(".csv", [SURE, UNSURE, UNREADABLE], 2))
    pairs = ("label_1", "probability_1", "label_2", "probability_2")
    assert list(rows[0]) == ["path", "decision", *pairs, "problem"]
    assert [row["decision"] for row in rows] == ["cat", "uncertain", ""]
    assert [tuple(row[key] for key in pairs) for row in rows] == [
        ("cat", "0.75", "dog", "0.25"),
        ("dog", "0.5", "cat", "0.5"),
        ("", "", "", ""),
    ]
    assert [row["problem"] for row in rows] == ["", "", "empty file"]
    wide = csv.reader(io.StringIO(write(".csv", [SURE, UNREADABLE], 4).decode()))
    assert {len(row) for row in wide} == {3 + 8}, "as many columns where classes are fewer"


def test_json_lines_have_one_object_per_image():
    lines = write(".jsonl", [SURE, UNSURE, UNREADABLE], 2).decode().splitlines()
    sure, unsure, unreadable = map(json.loads, lines)
    labels = [{"label": "cat", "probability": 0.75}, {"label": "dog", "probability": 0.25}]
    assert sure == {"path": "a.jpg", "decision": "cat", "predictions": labels, "problem": None}
    assert unsure["decision"] == "uncertain"
    expected = {"path": "c.jpg", "decision": None, "predictions": [], "problem": "empty file"}
    assert unreadable == expected


@pytest.mark.parametrize("name", FORMATS)
def test_probabilities_keep_every_bit_in_few_digits(name):
    shares = np.random.default_rng(0).random(500, np.float32) ** 8
    data = write(name, [Prediction("a", (("x", float(share)),), "x") for share in shares], 1)
    if name == ".csv":
        found = [row["probability_1"] for row in read_csv(data)]
    else:
        found = [json.loads(row)["predictions"][0]["probability"] for row in data.splitlines()]
    assert np.array_equal(np.array(found, np.float32), shares)
    assert max(len(str(text)) for text in found) <= 14


def test_rows_with_odd_names_are_read_back():
    """By the csv and json modules; a name that is not UTF-8 gives its bytes."""
    predictions = [*map(with_name, ODD_NAMES), Prediction("x", problem='a "quoted",\nreason')]
    names = [os.fsencode(one.path) for one in predictions]
    text = write(".jsonl", predictions, 1).decode("utf-8")  # strict
    lines = [json.loads(line) for line in text.split("\n")[:-1]]
    assert [os.fsencode(line["path"]) for line in lines] == names
    rows = read_csv(write(".csv", predictions, 1))
    assert [os.fsencode(row["path"]).removeprefix(b"./") for row in rows] == names
    assert rows[-1]["problem"] == lines[-1]["problem"] == 'a "quoted",\nreason'


def test_csv_names_and_labels_are_no_formulas():
    """Not even where a spreadsheet splits cells at semicolons: all text is in quotes."""
    data = FORMATS[".csv"].rows(map(with_name, ODD_NAMES), 1)
    for row in csv.reader(io.StringIO(data.decode("utf-8", "surrogateescape"), newline="")):
        assert not row[0].startswith(("=", "+", "-", "@", "\t", "\r"))
    assert b'"./=1+1.jpg"' in data, "another name of the same file"
    assert b'"a,b;=1+1.jpg"' in data
    labels = (("=cmd|' /C calc'!A0", 0.5), ("-1", 0.3))
    (row,) = read_csv(write(".csv", [Prediction("a.jpg", labels, labels[0][0])], 2))
    assert row["label_1"] == row["decision"] == "'=cmd|' /C calc'!A0"
    assert row["label_2"] == "-1"


def test_format_follows_the_ending():
    assert format_of("A.CSV") is FORMATS[".csv"]
    for name in ("answers.txt", "answers", "answers.csv.gz"):
        with pytest.raises(UserError, match=r"does not exist.*allowed: \.csv, \.jsonl"):
            format_of(name)
