"""The programs as a user starts them: train, evaluate, predict."""

from __future__ import annotations

import json
import os
import shlex
from pathlib import Path

import numpy as np
import pytest

from engine.commands import train_summary
from engine.runs import best_model
from engine.runs.directory import RunDirectory
from tests.bin.programs import run, start

pytestmark = pytest.mark.usefixtures("own_cache")

SMALL = (
    *("--backbone=tiny", "--weights=none", "--image_size=32", "--batch_size=8", "--noreport"),
    *("--validation_fraction=0.25", "--phase=transfer(epochs=2, learning_rate=0.1)"),
    "--phase=fine_tune(trainable=middle, epochs=2, optimizer=sgd, learning_rate=1e-2)",
)


@pytest.fixture(scope="module")
def trained(coloured, tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("trained") / "run"
    sheet = place.parent / "augmented.png"
    flags = (f"--data_dir={coloured}", f"--run_dir={place}", f"--show_augmented={sheet}")
    out = run("train", *SMALL, *flags)
    assert "39 training images, 13 validation images; 2 classes: blue, red" in out
    assert f"written to {place}" in out
    assert sheet.read_bytes().startswith(b"\x89PNG")
    return place


def test_run_directory_has_the_files_that_the_readme_lists(trained):
    result = json.loads((trained / "result.json").read_text())
    assert result["status"] == "finished"
    assert result["best"]["val_accuracy"] > 0.9, "red against blue is not hard"
    files = ("recipe.json", "plan.json", "history.csv", "history.png", "bad_images.csv", "best.npz")
    for name in files:
        assert (trained / name).stat().st_size > 0
    plan = json.loads((trained / "plan.json").read_text())
    assert set(plan["phases"]) == {"transfer", "fine_tune"}
    times = ("seconds", "wait_seconds", "fill_seconds", "eval_seconds", "save_seconds")
    assert set(result["spent"]) == set(times)
    assert 0 < result["spent"]["save_seconds"] < result["seconds_total"]
    assert list((trained / "checkpoints").glob("*.npz"))
    assert list((trained / "events" / "train").glob("events*"))


def test_tensorboard_reads_the_events(trained):
    from tensorboard.backend.event_processing.event_multiplexer import EventMultiplexer

    folder = shlex.split(train_summary.tensorboard_command(trained))[-1].removeprefix("--logdir=")
    board = EventMultiplexer().AddRunsFromDirectory(folder).Reload()
    train, validation = (
        board.GetAccumulator(os.path.join("events", split)) for split in ("train", "validation")
    )
    assert {"step/loss", "epoch/loss", "epoch/accuracy"} <= set(train.Tags()["tensors"])
    assert {"epoch/accuracy", "confusion"} <= set(validation.Tags()["tensors"])
    assert "augmented" in train.Tags()["tensors"]
    assert len(validation.Tensors("epoch/accuracy")) == 4
    assert train.Tags()["graph"]


def test_evaluate_prints_the_metrics_of_the_end_of_training_and_saves_a_rule(trained):
    flags = (f"--run_dir={trained}", "--abstain=0.6", "--format=json")
    process = start("evaluate", *flags)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    best = RunDirectory(trained).best
    assert err == f"saved with the model, {best}: bin/predict decides by it from now on\n"
    rule = best_model.decision_rule_of(
        RunDirectory(trained), best_model.load_best_model(RunDirectory(trained))[1]
    )
    assert rule.abstain == 0.6
    printed = json.loads(out)
    result = json.loads((trained / "result.json").read_text())
    measured = {key: printed[key] for key in ("accuracy", "loss", "count")}
    assert measured == pytest.approx(result["validation"], rel=1e-6)
    # The epochs were evaluated with the frozen layers in their fastest precision.
    assert printed["loss"] == pytest.approx(result["best"]["val_loss"], rel=0.05, abs=0.02)
    assert printed["count"] == 13 == np.sum(printed["confusion_matrix"])
    assert printed["classes"] == ["blue", "red"] == list(printed["per_class"])


def test_predict_reports_a_broken_image_and_continues(trained, coloured, tmp_path):
    broken, plot = tmp_path / "broken.jpg", tmp_path / "plot.png"
    broken.write_bytes(b"no image")
    process = start(
        "predict", f"--run_dir={trained}", "--format=json", f"--plot={plot}",
        coloured / "red" / "00.jpg", broken, coloured / "blue", cwd=tmp_path,
    )  # fmt: skip
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
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
