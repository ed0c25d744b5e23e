"""Reports as the programs write them; one that fails takes nothing from the run."""

from __future__ import annotations

import json
import os
import re
import signal
import types

import pytest

from engine.cli import train as cli_train
from engine.commands import reporting
from engine.core.errors import UserError
from engine.runs.directory import RunDirectory
from engine.runtime.shutdown import Shutdown
from tests.bin.programs import run, start
from tests.engine.report.html_checks import complaints

pytestmark = pytest.mark.usefixtures("own_cache")

SMALL = (
    *("--backbone=mobilenet_v2", "--weights=none", "--image_size=32", "--batch_size=8"),
    *("--validation_fraction=0.25", "--precision=float32", "--phase=head(epochs=1)"),
)


@pytest.fixture(scope="module")
def trained(coloured, tmp_path_factory):
    """A run, and what was printed."""
    place = tmp_path_factory.mktemp("reported") / "run"
    out = run(
        "train", *SMALL, f"--data_dir={coloured}", f"--run_dir={place}", "--price_per_hour=0.5"
    )
    return place, out


def test_a_run_ends_with_its_report(trained, coloured):
    place, out = trained
    assert f"report: {place / 'report' / 'report.html'}" in out
    page = (place / "report" / "report.html").read_text()
    assert complaints(page) == []
    value = json.loads((place / "report" / "report.json").read_text())
    result = json.loads((place / "result.json").read_text())
    assert value["part"] == "validation"
    assert value["accuracy"] == result["validation"]["accuracy"]
    assert value["loss"] == pytest.approx(result["validation"]["loss"])
    assert value["calibration"]["temperature"] == result["calibration"]["temperature"]
    assert value["cost"] == pytest.approx(0.5 * result["seconds_total"] / 3600)
    assert value["command"].startswith("bin/train --backbone=mobilenet_v2")
    assert value["label_check"]["examined"] == 39
    wrong = round((1 - value["accuracy"]) * value["count"])
    assert len(value["mistakes"]) == wrong
    assert all(str(coloured) in mistake["name"] for mistake in value["mistakes"])
    assert len(re.findall("<img ", page)) == 2 * wrong + min(
        len(value["label_check"]["suspects"]), 24
    )


def test_evaluating_writes_one_of_the_part_that_was_asked_for(trained, tmp_path):
    place, _ = trained
    folder = tmp_path / "new" / "report"
    answer = run(
        "evaluate", f"--run_dir={place}", "--split=train", f"--report={folder}", "--format=json"
    )
    value = json.loads((folder / "report.json").read_text())
    assert value["part"] == "train"
    assert value["accuracy"] == json.loads(answer)["accuracy"]
    assert value["label_check"]["examined"] == value["count"] == 39
    assert value["cost"] is None
    assert complaints((folder / "report.html").read_text()) == []


def test_of_other_images_no_label_is_looked_at(trained, coloured, tmp_path):
    place, _ = trained
    run("evaluate", f"--run_dir={place}", f"--data_dir={coloured}", f"--report={tmp_path}")
    value = json.loads((tmp_path / "report.json").read_text())
    assert (value["part"], value["own"], value["data"]) == ("all", False, str(coloured))
    assert value["label_check"] is None
    assert value["count"] == 52


@pytest.mark.parametrize(
    ("more", "views"), [((), ""), (("--tta=flip",), "the image and its mirror image")]
)
def test_what_answers_are_means_of_is_said(trained, tmp_path, more, views):
    run("evaluate", f"--run_dir={trained[0]}", *more, f"--report={tmp_path}")
    assert json.loads((tmp_path / "report.json").read_text())["views"] == views


def test_a_place_that_can_t_be_written_is_one_line(trained, tmp_path):
    (tmp_path / "file").write_text("x")
    place = tmp_path / "file" / "report"
    process = start("evaluate", f"--run_dir={trained[0]}", f"--report={place}")
    out, err = process.communicate(timeout=600)
    assert process.returncode == 1
    assert err == (
        f"evaluate: --report={place}: can't be written (Not a directory); name another folder\n"
    )
    assert "13 images: accuracy" in out, "what was measured is told all the same"


def test_who_wants_an_end_meanwhile_has_a_finished_run(coloured, tmp_path):
    place = tmp_path / "run"
    process = start(
        "train", *SMALL, f"--data_dir={coloured}", f"--run_dir={place}",
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )  # fmt: skip
    for line in process.stdout:
        if line.startswith("best: "):
            process.send_signal(signal.SIGTERM)
            break
    out, err = process.communicate(timeout=600)
    assert process.returncode == 0
    assert json.loads((place / "result.json").read_text())["status"] == "finished"
    again = f"bin/evaluate --run_dir={place} --report={place / 'report'}"
    assert err == f"train: no report (SIGTERM); {again} makes one\n"
    assert f"written to {place}" in out


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (UserError("a.jpg: is gone"), "a.jpg: is gone"),
        (OSError(28, "No space left on device"), "[Errno 28] No space left on device"),
        (ValueError("two\nlines"), r"ValueError('two\nlines')"),
        (MemoryError(), "MemoryError()"),
    ],
)
def test_whatever_goes_wrong_is_one_line(monkeypatch, tmp_path, capsys, error, said):
    def fail(*_):
        raise error

    monkeypatch.setattr(reporting, "_trained", fail)
    job = types.SimpleNamespace(run=RunDirectory(tmp_path / "run"), shutdown=Shutdown(), lock=None)
    reporting.after_training(job, types.SimpleNamespace(predictions={"test": None}), None)
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith(f"train: no report ({said}); bin/evaluate --run_dir=")
    assert printed.err.count("\n") == 1


def test_where_another_run_has_come_nothing_is_written(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(reporting, "_trained", lambda *_: None)
    monkeypatch.setattr(reporting, "collect_report", lambda *_: None)
    lock = types.SimpleNamespace(owns_directory=lambda: False)
    job = types.SimpleNamespace(run=RunDirectory(tmp_path / "run"), shutdown=Shutdown(), lock=lock)
    reporting.after_training(job, types.SimpleNamespace(predictions={"test": None}), None)
    assert "is another run's by now" in capsys.readouterr().err
    assert not job.run.path.exists()


def test_other_programs_pass_its_flags_over():
    assert {"report", "price_per_hour"} <= set(cli_train.names())
