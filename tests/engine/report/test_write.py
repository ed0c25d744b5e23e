import csv
import dataclasses
import json

import numpy as np
import pytest

from engine.core.errors import UserError
from engine.report import write
from engine.report.report_data import LabelCheckSummary, SuspectLabel
from tests.engine.report import example_report as example


def test_report_files_have_their_content(tmp_path):
    report = example.report(3)
    page = write.write(tmp_path / "new" / "report", report)
    assert page == tmp_path / "new" / "report" / "report.html"
    assert sorted(path.name for path in page.parent.iterdir()) == [
        "report.html", "report.json", "suspect_labels.csv",
    ]  # fmt: skip
    value = json.loads((page.parent / "report.json").read_text())
    answers = example.predictions(3)
    predicted = answers.logits.argmax(1)
    assert value["accuracy"] == (predicted == answers.labels).mean()
    assert sum(map(sum, value["confusion_matrix"])) == value["count"] == 300
    low, high = value["accuracy_interval"]
    assert low < value["accuracy"] < high
    assert value["per_class"]["class 2"]["support"] == 100
    assert len(value["per_class"]["class 2"]["f1_interval"]) == 2
    assert value["operating"]["hits"] + value["operating"]["misses"] == 100
    assert value["abstaining"]["sure"] + value["abstaining"]["uncertain"] == 300
    assert value["mistakes"][0] == {
        "name": "/data/val/1.jpg", "given": "class 0", "predicted": "class 1", "probability": 0.987,
    }  # fmt: skip
    assert value["label_check"]["suspects"] == [
        {"name": "/data/train/0.jpg", "given": "class 0", "suggested": "class 1", "likely": True}
    ]
    assert value["cost"] == pytest.approx(4 * 100 / 3600)
    assert value["training"]["epochs"][0]["phase"] == "head"
    assert sum(row["images"] for row in value["calibration"]["bins_after"]) == 300


def test_json_of_many_classes_is_compact(tmp_path):
    """A row of the matrix is a line."""
    write.write(tmp_path, example.report(300, images=600))
    text = (tmp_path / "report.json").read_text()
    assert len(text) < 600_000
    assert text.count("\n") < 10_000
    assert np.shape(json.loads(text)["confusion_matrix"]) == (300, 300)


def test_suspects_with_odd_names_are_written(tmp_path):
    names = ('a,"b".jpg', "line\nbreak.jpg", "half \udcff.jpg", "=a.jpg")
    suspects = tuple(SuspectLabel(name, "=1+1", "x", name.startswith("a")) for name in names)
    write.write(tmp_path, example.report(3, labels=LabelCheckSummary(9, 0.9, "x", suspects)))
    with open(tmp_path / "suspect_labels.csv", newline="") as file:
        rows = list(csv.reader(file))
    assert rows == [
        ["path", "given", "suggested", "likely_wrong"],
        ['a,"b".jpg', "'=1+1", "x", "yes"],
        [r"line\nbreak.jpg", "'=1+1", "x", "no"],
        [r"half \xff.jpg", "'=1+1", "x", "no"],
        ["./=a.jpg", "'=1+1", "x", "no"],
    ]


def test_suspects_of_an_earlier_report_are_removed(tmp_path):
    report = example.report(3)
    write.write(tmp_path, report)
    write.write(tmp_path, dataclasses.replace(report, labels=None))
    assert not (tmp_path / "suspect_labels.csv").exists()


def test_folder_that_is_a_file_raises_oserror(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(OSError, match="file"):
        write.write(tmp_path / "file" / "report", example.report(2))


@pytest.mark.parametrize("name", ["report.html", "report.json", "suspect_labels.csv"])
def test_other_files_are_refused(tmp_path, name):
    """bin/doctor's have two of the names."""
    (tmp_path / name).write_text('{"images": 3}')
    with pytest.raises(UserError, match=rf"holds a {name} that is not from a report; name another"):
        write.refuse(tmp_path)


def test_earlier_report_and_other_names_are_accepted(tmp_path):
    write.refuse(tmp_path / "new")
    (tmp_path / "notes.txt").write_text("")
    write.refuse(tmp_path)
    write.write(tmp_path, example.report(3))
    write.refuse(tmp_path)
    (tmp_path / "report.html").unlink()
    write.refuse(tmp_path)
