"""Reports of training and evaluation; one that fails takes nothing from the run."""

from __future__ import annotations

import html
import json
import re
import signal
import types

import pytest

import unfreeze
from engine.commands import evaluate as evaluate_command
from engine.commands import reporting
from engine.core.errors import UserError
from engine.runs.directory import RunDirectory
from engine.runtime.shutdown import Shutdown
from tests.bin.programs import start
from tests.engine import tiny
from tests.engine.report.html_checks import complaints
from tests.engine.small_runs import Watcher


@pytest.fixture
def evaluate(call, trained_run):
    """Evaluates the run with a report; returns what is printed, and report.json."""

    def evaluated(folder, *flags):
        own = (f"--run_dir={trained_run.path}", f"--report={folder}", "--format=json")
        out = call("evaluate", *own, *flags)
        assert complaints((folder / "report.html").read_text()) == []
        return json.loads(out), json.loads((folder / "report.json").read_text())

    return evaluated


def test_training_writes_report(trained_run, coloured):
    place, result, notes = trained_run.path, trained_run.result, trained_run.watcher.notes
    written = f"report: {place / 'report' / 'report.html'} ("
    assert any(note.startswith(written) for note in notes)
    page = (place / "report" / "report.html").read_text()
    assert complaints(page) == []
    value = json.loads((place / "report" / "report.json").read_text())
    assert value["split"] == "validation"
    assert value["accuracy"] == result["validation"]["accuracy"]
    assert value["loss"] == pytest.approx(result["validation"]["loss"])
    assert value["calibration"]["temperature"] == result["calibration"]["temperature"]
    seconds = result["seconds_total"] + value["report_seconds"]
    assert value["cost"] == pytest.approx(0.5 * seconds / 3600)
    assert value["report_seconds"] > 0
    assert value["training"]["verdict"] == result["verdict"]
    assert " ".join(result["verdict"]) in html.unescape(page)
    assert set(result["verdict"]) < set(notes)
    assert value["command"].startswith("bin/train --backbone=tiny")
    assert value["label_check"]["examined"] == 39
    wrong = round((1 - value["accuracy"]) * value["count"])
    assert len(value["mistakes"]) == wrong
    assert all(str(coloured) in mistake["name"] for mistake in value["mistakes"])
    suspects = min(len(value["label_check"]["suspects"]), 24)
    assert len(re.findall("<img ", page)) == 2 * wrong + suspects


@pytest.mark.parametrize(("split", "count"), [("train", 39), ("validation", 13)])
def test_report_of_own_data_checks_labels_of_training_split(evaluate, tmp_path, split, count):
    printed, value = evaluate(tmp_path / "new" / "report", f"--split={split}")
    assert (value["split"], value["accuracy"]) == (split, printed["accuracy"])
    assert (value["label_check"]["examined"], value["count"]) == (39, count)
    assert (value["cost"], value["views"]) == (None, "")


def test_report_of_other_data_has_no_label_check(evaluate, coloured, tmp_path):
    _, value = evaluate(tmp_path, f"--data_dir={coloured}", "--tta=flip")
    assert (value["split"], value["own"], value["data"]) == ("all", False, str(coloured))
    assert (value["label_check"], value["count"]) == (None, 52)
    assert value["views"] == "the image and its mirror image"


def test_evaluate_from_python_writes_the_report(trained_run, tmp_path):
    options = unfreeze.EvaluateOptions(run_dir=str(trained_run.path), report=str(tmp_path / "page"))
    lines = []
    result = evaluate_command.evaluate(options, lines.append)
    assert unfreeze.evaluate is evaluate_command.evaluate
    value = json.loads((tmp_path / "page" / "report.json").read_text())
    assert value["accuracy"] == result.metrics.accuracy
    assert lines[-1] == f"report: {tmp_path / 'page' / 'report.html'}"


def test_unwritable_report_is_one_line_after_the_metrics(call, trained_run, tmp_path):
    (tmp_path / "file").write_text("x")
    report = f"--report={tmp_path / 'file' / 'report'}"
    message = f"{report}: can't be written (Not a directory); name another folder"
    with pytest.raises(UserError, match=re.escape(message)):
        call("evaluate", f"--run_dir={trained_run.path}", report)
    assert "13 images of the validation split: accuracy" in call.said.out
    assert call.said.err == ""


def test_signal_during_the_report_leaves_a_finished_run(coloured, tmp_path):
    place = tmp_path / "run"
    process = start(
        "train", "--backbone=tiny", "--weights=none", "--batch_size=8", "--precision=float32",
        "--phase=head(epochs=1)", f"--data_dir={coloured}", f"--run_dir={place}",
        "--cache_dir=none", env={**tiny.environment(), "PYTHONUNBUFFERED": "1"},
    )  # fmt: skip
    for line in process.stdout:
        if line.startswith("best: "):
            process.send_signal(signal.SIGTERM)
            break
    out, err = process.communicate(timeout=600)
    assert process.returncode == 0
    assert json.loads((place / "result.json").read_text())["status"] == "finished"
    again = f"bin/evaluate --run_dir={place} --report={place / 'report'}"
    assert err == f"train: no report (SIGTERM); {again} writes one\n"
    assert f"written to {place}" in out


@pytest.fixture
def unreported(tmp_path):
    """Ends a training whose report fails; returns why there is none."""

    def end(lock=None) -> str:
        watcher, run = Watcher(), RunDirectory(tmp_path / "run")
        job = types.SimpleNamespace(run=run, shutdown=Shutdown(), lock=lock, logger=watcher)
        final = types.SimpleNamespace(predictions={"test": None}, result={"seconds_total": 90.0})
        error = reporting.write_training_report(job, final, "bin/train")
        assert watcher.notes == ["writing the report, in 9 s at most"]
        return error

    return end


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (UserError("a.jpg: is gone"), "a.jpg: is gone"),
        (OSError(28, "No space left on device"), "[Errno 28] No space left on device"),
        (ValueError("two\nlines"), r"ValueError('two\nlines')"),
        (MemoryError(), "MemoryError()"),
    ],
)
def test_failed_report_is_one_line(monkeypatch, unreported, error, said):
    def fail(*_):
        raise error

    monkeypatch.setattr(reporting, "_trained_model", fail)
    line = unreported()
    assert line.startswith(f"no report ({said}); bin/evaluate --run_dir=")
    assert "\n" not in line


def test_report_is_not_written_into_another_run(monkeypatch, unreported, tmp_path):
    for name in ("_trained_model", "collect_report"):
        monkeypatch.setattr(reporting, name, lambda *_: None)
    line = unreported(types.SimpleNamespace(owns_directory=lambda: False))
    assert "holds another run by now" in line
    assert not (tmp_path / "run").exists()
