"""Rows of answers: read by csv, json and a spreadsheet's rules, whatever the names are."""

import csv
import io
import json
import os

import numpy as np
import pytest

from engine.core.errors import UserError
from engine.inference.predict import Prediction
from engine.inference.predictions_format import FORMATS, Row, of_path

ODD = (
    "plain.jpg", "two\nlines.jpg", 'a"b.jpg', "a,b;=1+1.jpg", "\r.jpg", "große Katze🐈.jpg",
    os.fsdecode(b"\xff\xfe.jpg"), "\\udcff.jpg", "\u2028.jpg", "=1+1.jpg", "-rf.png", "@x", "+1",
    "\tx", "", " ", "https://a.org/b?c=1,2", '"', '""\n"',
)  # fmt: skip
GOOD = Prediction("a.jpg", (("cat", 0.75), ("dog", 0.25)), "cat")
UNSURE = Prediction("b.jpg", (("dog", 0.5), ("cat", 0.5)), None)
BAD = Prediction("c.jpg", problem="empty file")


def of_csv(data: bytes) -> list[dict]:
    text = data.decode("utf-8", "surrogateescape")
    return list(csv.DictReader(io.StringIO(text, newline="")))


def whole(name: str, answers, top: int) -> bytes:
    form = FORMATS[name]
    return form.head(top) + form.rows(answers, top)


def test_csv_has_a_row_for_each_image():
    rows = of_csv(whole(".csv", [GOOD, UNSURE, BAD], 2))
    pairs = ("label_1", "probability_1", "label_2", "probability_2")
    assert list(rows[0]) == ["path", "decision", *pairs, "problem"]
    assert [row["decision"] for row in rows] == ["cat", "uncertain", ""]
    assert [tuple(row[key] for key in pairs) for row in rows] == [
        ("cat", "0.75", "dog", "0.25"),
        ("dog", "0.5", "cat", "0.5"),
        ("", "", "", ""),
    ]
    assert [row["problem"] for row in rows] == ["", "", "empty file"]


def test_there_are_as_many_columns_where_there_are_fewer_classes():
    rows = list(csv.reader(io.StringIO(whole(".csv", [GOOD, BAD], 4).decode())))
    assert {len(row) for row in rows} == {3 + 8}


def test_json_lines_have_one_each():
    lines = whole(".jsonl", [GOOD, UNSURE, BAD], 2).decode().splitlines()
    good, unsure, bad = map(json.loads, lines)
    assert good == {
        "path": "a.jpg",
        "decision": "cat",
        "predictions": [
            {"label": "cat", "probability": 0.75},
            {"label": "dog", "probability": 0.25},
        ],
        "problem": None,
    }
    assert unsure["decision"] == "uncertain"
    assert bad == {"path": "c.jpg", "decision": None, "predictions": [], "problem": "empty file"}


@pytest.mark.parametrize("name", FORMATS)
def test_probabilities_are_float32_to_the_bit_in_few_digits(name):
    shares = np.random.default_rng(0).random(500, np.float32) ** 8
    answers = [Prediction("a", (("x", float(share)),), "x") for share in shares]
    data = whole(name, answers, 1)
    found = (
        [row["probability_1"] for row in of_csv(data)]
        if name == ".csv"
        else [json.loads(line)["predictions"][0]["probability"] for line in data.splitlines()]
    )
    assert np.array_equal(np.array(found, np.float32), shares)
    assert max(len(str(text)) for text in found) <= 14


@pytest.mark.parametrize("name", FORMATS)
def test_rows_are_read_again_whatever_the_name(name):
    form = FORMATS[name]
    answers = [Prediction(path, (("x", 0.5),), "x") for path in ODD]
    answers += [Prediction(path, problem='a "quoted",\nreason') for path in ODD]
    file = io.BytesIO(form.rows(answers, 1))
    rows = [form.read(line) for line in form.lines(file)]
    assert rows == [Row(form.name(one.path), one.problem or "") for one in answers]


def test_names_that_are_no_utf_8_survive():
    name = b"\xff\xfe\x80 \xc3\xa4.jpg"
    answer = Prediction(os.fsdecode(name), (("x", 0.5),), "x")
    (row,) = of_csv(whole(".csv", [answer], 1))
    assert os.fsencode(row["path"]) == name
    text = whole(".jsonl", [answer], 1).decode("utf-8")  # which is strict
    assert os.fsencode(json.loads(text)["path"]) == name


def test_no_name_is_a_formula_to_a_spreadsheet():
    """Nor where it parts cells at semicolons: all text is in quotes."""
    data = FORMATS[".csv"].rows([Prediction(path, (("x", 0.5),), "x") for path in ODD], 1)
    for row in csv.reader(io.StringIO(data.decode("utf-8", "surrogateescape"), newline="")):
        assert not row[0].startswith(("=", "+", "-", "@", "\t", "\r"))
    assert b'"./=1+1.jpg"' in data, "another name of the same file"
    assert b'"a,b;=1+1.jpg"' in data


def test_nor_is_a_label():
    labels = (("=cmd|' /C calc'!A0", 0.5), ("-1", 0.3))
    (row,) = of_csv(whole(".csv", [Prediction("a.jpg", labels, labels[0][0])], 2))
    assert row["label_1"] == row["decision"] == "'=cmd|' /C calc'!A0"
    assert row["label_2"] == "-1"


def test_what_is_torn_is_no_row():
    for form in FORMATS.values():
        whole_row = form.rows([Prediction('a"\n.jpg', (("x", 0.5),), "x")], 1)
        for end in range(len(whole_row)):
            assert list(form.lines(io.BytesIO(whole_row[:end]))) in ([], [whole_row[:end]])
            for line in form.lines(io.BytesIO(whole_row[:end])):
                with pytest.raises(ValueError, match=r"."):
                    form.read(line)


@pytest.mark.parametrize("line", [b"\n", b"null\n", b"[]\n", b"{}\n", b"\0\0\n", b"\xff\n", b'"\n'])
@pytest.mark.parametrize("name", FORMATS)
def test_what_is_none_is_refused(name, line):
    with pytest.raises(ValueError, match=r"."):
        FORMATS[name].read(line)


def test_the_ending_says_the_format():
    assert of_path("A.CSV") is FORMATS[".csv"]
    for name in ("answers.txt", "answers", "answers.csv.gz"):
        with pytest.raises(UserError, match=r"does not exist.*allowed: \.csv, \.jsonl"):
            of_path(name)
