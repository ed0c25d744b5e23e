"""A trained run as a user sees it: its files, and the programs that read them."""

from __future__ import annotations

import json
import shlex
import shutil

import numpy as np
import pytest

from engine.commands import train_summary
from engine.report import training_log
from engine.runs import best_model
from engine.runs.directory import RunDirectory
from tests.bin.programs import start


def test_run_directory_has_the_files_that_the_readme_lists(trained_run):
    place, result = trained_run.path, trained_run.result
    assert json.loads((place / "result.json").read_text()) == result
    assert result["status"] == "finished"
    assert result["best"]["val_accuracy"] > 0.9, "red against blue is not hard"
    files = ("recipe.json", "plan.json", "history.csv", "history.png", "bad_images.csv", "best.npz")
    files += ("digests.json",)
    assert all((place / name).stat().st_size > 0 for name in files)
    plan = json.loads((place / "plan.json").read_text())
    assert set(plan["phases"]) == {"transfer", "fine_tune"}
    assert set(result["spent"]) == {*training_log.SPENT, "report_seconds"}
    assert 0 < result["spent"]["save_seconds"] < result["seconds_total"]
    assert list((place / "checkpoints").glob("*.npz"))
    assert list((place / "train").glob("events*"))
    line = "39 training images, 13 validation images; 2 classes: blue, red"
    assert line in trained_run.watcher.notes


def test_tensorboard_reads_the_events(trained_run):
    from tensorboard.backend.event_processing.event_multiplexer import EventMultiplexer

    command = train_summary.tensorboard_command(trained_run.path)
    folder = shlex.split(command)[-1].removeprefix("--logdir=")
    board = EventMultiplexer().AddRunsFromDirectory(folder).Reload()
    assert board.Runs().keys() == {"final", "train", "validation"}
    train, validation = map(board.GetAccumulator, ("train", "validation"))
    assert {"step/loss", "epoch/loss", "epoch/accuracy", "augmented"} <= {*train.Tags()["tensors"]}
    assert {"epoch/accuracy", "confusion"} <= set(validation.Tags()["tensors"])
    assert len(validation.Tensors("epoch/accuracy")) == 4
    assert board.GetAccumulator("final").Tags()["graph"]


def test_evaluate_prints_the_metrics_of_the_end_of_training_and_saves_a_rule(trained_run, tmp_path):
    run, result = RunDirectory(tmp_path / "run"), trained_run.result
    shutil.copytree(trained_run.path, run.path)
    process = start("evaluate", f"--run_dir={run.path}", "--abstain=0.6", "--format=json")
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert err == f"saved with the model, {run.best}: bin/predict decides by it from now on\n"
    assert best_model.load_best_model(run)[1]["rule"]["abstain"] == 0.6
    printed = json.loads(out)
    for name, value in result["validation"].items():
        assert printed[name] == pytest.approx(value, rel=1e-6)
    # The epochs were evaluated with the frozen layers in their fastest precision.
    assert printed["loss"] == pytest.approx(result["best"]["val_loss"], rel=0.05, abs=0.02)
    assert printed["count"] == 13 == np.sum(printed["confusion_matrix"])
    assert printed["classes"] == ["blue", "red"] == list(printed["per_class"])


def test_predict_reports_a_broken_image_and_continues(trained_run, coloured, tmp_path):
    broken, plot = tmp_path / "broken.jpg", tmp_path / "plot.png"
    broken.write_bytes(b"no image")
    flags = (f"--run_dir={trained_run.path}", "--format=json", f"--plot={plot}")
    images = (coloured / "red" / "00.jpg", broken, coloured / "blue")
    process = start("predict", *flags, *images, cwd=tmp_path)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 1, err
    rows = json.loads(out)
    assert len(rows) == 28
    unread = rows.pop(1)
    assert (unread["path"], unread["predictions"]) == (str(broken), [])
    assert unread["problem"].startswith("not an image")
    assert {row["problem"] for row in rows} == {None}
    assert rows[0]["path"].endswith("red/00.jpg")
    assert rows[0]["predictions"][0]["label"] == "red"
    assert sum(p["probability"] for p in rows[0]["predictions"]) == pytest.approx(1, abs=1e-5)
    assert all(row["predictions"][0]["label"] == "blue" for row in rows[1:])
    assert f"{broken}: not an image" in err
    assert plot.read_bytes().startswith(b"\x89PNG")
