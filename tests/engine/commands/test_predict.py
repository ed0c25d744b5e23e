"""bin/predict: its formats, decisions, plots, test-time augmentation and addresses."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.special
from PIL import Image
from sklearn.metrics import confusion_matrix

from engine.cli import predict
from engine.core.errors import UserError
from engine.evaluation import decision_rule
from engine.evaluation.decision_rule import DecisionRule
from engine.inference import gradcam
from engine.inference.predictions import Prediction
from engine.loggers import plots
from engine.runs import best_model
from engine.runs.directory import RunDirectory
from engine.runs.load_run import load_run
from pipelines.decode.decode import decode
from tests.engine import saved_run, tiny

LABELS = ("blue", "red")


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> RunDirectory:
    """A run whose decisions are not clear: its weights are random."""
    place = tmp_path_factory.mktemp("saved") / "run"
    return saved_run.save(place, DecisionRule(2.5), LABELS)


@pytest.fixture
def run(saved, tmp_path) -> RunDirectory:
    """One whose rule may be changed."""
    shutil.copytree(saved.path, tmp_path / "run")
    return RunDirectory(tmp_path / "run")


def labelled(rows: list[dict]) -> np.ndarray:
    """Probabilities [N, 2] of printed rows."""
    return np.array([
        [{one["label"]: one["probability"] for one in row["predictions"]}[name] for name in LABELS]
        for row in rows
    ])  # fmt: skip


def test_formats_show_the_decision_of_the_rule(call, run, coloured):
    files = sorted((coloured / "red").iterdir())[:8]
    flags = (f"--run_dir={run.path}", *files)
    rows = json.loads(call("predict", "--format=json", *flags))
    assert all(row["decision"] == row["predictions"][0]["label"] for row in rows)
    probabilities = labelled(rows)
    threshold = sorted(probabilities[:, 0])[3] - 1e-6
    level = sorted(probabilities.max(-1))[4] - 1e-6
    rule = DecisionRule(2.5, "blue", threshold, 0.9, level)
    best_model.save_decision_rule(run, rule)
    decided = decision_rule.decide(rule, LABELS, probabilities)
    expected = [None if n < 0 else LABELS[n] for n in decided]
    assert expected.count(None) == 4
    rows = json.loads(call("predict", "--format=json", *flags))
    words = [name or "uncertain" for name in expected]
    assert [row["decision"] for row in rows] == words
    table = call("predict", *flags).splitlines()
    assert [line.strip() for line in table if "->" in line] == [f"-> {word}" for word in words]
    lines = list(csv.DictReader(call("predict", "--format=csv", *flags).splitlines()))
    assert [line["decision"] for line in lines[::2]] == words
    assert lines[0].keys() == {"path", "rank", "label", "probability", "decision"}


def test_plot_explains_the_decision_of_the_rule(call, run, coloured, tmp_path, monkeypatch):
    """For an uncertain image, the likeliest class."""
    odd = tmp_path / os.fsdecode(b"caf\xe9.jpg")
    odd.write_bytes((coloured / "red" / "00.jpg").read_bytes())
    files = [odd, *sorted((coloured / "red").iterdir())[1:8]]
    flags = (f"--run_dir={run.path}", "--top_k=1", f"--plot={tmp_path / 'a.png'}", "--explain")
    plotted, draw = [], plots.predictions
    monkeypatch.setattr(plots, "predictions", lambda items: plotted.append(items) or draw(items))
    call("predict", *flags, *files)
    likeliest = [shown.labels[0][0] for shown in plotted[0]]
    assert [shown.decision for shown in plotted[0]] == [None] * 8
    assert [shown.evidence[1] for shown in plotted[0]] == likeliest
    shares = [shown.labels[0][1] for shown in plotted[0]]
    (positive,) = {*LABELS} - {likeliest[int(np.argmax(shares))]}
    rule = DecisionRule(2.5, positive, 0.0, 0.9, sorted(shares)[4] - 1e-6)
    best_model.save_decision_rule(run, rule)
    call("predict", *flags, *files)
    certain = [share >= rule.abstain for share in shares]
    explained = np.where(certain, positive, likeliest).tolist()
    assert explained != likeliest, "else little is tested"
    assert [shown.decision == positive for shown in plotted[1]] == certain
    assert [shown.evidence[1] for shown in plotted[1]] == explained
    images = np.stack([shown.image for shown in plotted[1]])
    classes = [LABELS.index(name) for name in explained]
    heats = gradcam.from_classifier(load_run(run).classifier)(images, classes)
    for shown, heat in zip(plotted[1], heats, strict=True):
        np.testing.assert_allclose(shown.evidence[0], gradcam.overlay(shown.image, heat), atol=2)
    assert plotted[1][0].title.endswith(r"caf\xe9.jpg")


@pytest.mark.parametrize("flags", ["--run_dir={}", "--backbone=efficientnet_lite0"])
def test_explained_plot_has_three_columns_and_a_row_for_each_readable_image(
    call, saved, coloured, tmp_path, flags
):
    broken, plot = tmp_path / "broken.jpg", tmp_path / "plot.png"
    broken.write_bytes(b"no image")
    files = [coloured / "red" / "00.jpg", broken, coloured / "blue" / "01.jpg"]
    flags = flags.format(saved.path)
    with pytest.raises(UserError, match=r"^1 of 3 images could not be read; the others are pred"):
        call("predict", flags, "--batch_size=1", "--explain", f"--plot={plot}", *files)
    with Image.open(plot) as image:
        assert image.size == (1200, 640)


def test_flip_is_the_mean_over_an_image_and_its_mirror_image(call, saved, coloured):
    opened = load_run(saved)
    files = sorted(coloured.glob("*/*.jpg"))
    images = np.stack([decode(file.read_bytes(), 32, 32).numpy() for file in files])
    logits = [
        opened.model(view.astype(np.float32), training=False) / opened.rule.temperature
        for view in (images, images[:, :, ::-1])
    ]
    probabilities = np.mean([scipy.special.softmax(one, -1) for one in logits], 0)
    flags = (f"--run_dir={saved.path}", "--tta=flip", "--format=json")
    rows = json.loads(call("predict", *flags, *files))
    np.testing.assert_allclose(labelled(rows), probabilities, rtol=0, atol=1e-5)
    evaluated = json.loads(call("evaluate", *flags, f"--data_dir={coloured}"))
    labels = [file.parent.name == "red" for file in files]
    expected = confusion_matrix(labels, probabilities.argmax(-1) == 1)
    assert evaluated["confusion_matrix"] == expected.tolist()


def test_predict_without_a_run_names_imagenet_classes(call):
    import matplotlib

    image = Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"
    rows = list(csv.DictReader(call("predict", "--format=csv", image).splitlines()))
    assert [row["rank"] for row in rows] == ["1", "2", "3", "4", "5"]
    assert "uniform" in rows[0]["label"]


def test_terminal_gets_no_control_characters_in_csv(capsys, monkeypatch):
    """Other readers get names as they are."""
    prediction = Prediction("\x1b[2J.jpg", (("\x9b2Jred", 0.5),), "\x9b2Jred")
    predict.print_csv([prediction], decides=True)
    assert capsys.readouterr().out.endswith("\n\x1b[2J.jpg,1,\x9b2Jred,0.5,\x9b2Jred\n")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    predict.print_csv([prediction], decides=True)
    assert capsys.readouterr().out.endswith("\n\\x1b[2J.jpg,1,\\x9b2Jred,0.5,\\x9b2Jred\n")


IMPORTED = """
import sys
from engine.cli import main, predict
main.main(predict.main)
packages = {name.partition(".")[0] for name in sys.modules}
print(*sorted({"tensorflow", "keras", "scipy", "sklearn", "matplotlib", "tensorboard"} & packages))
import scipy, sklearn, matplotlib  # are there for what uses them
"""


def test_predicting_imports_tensorflow_and_no_package_that_it_does_not_use(saved, coloured):
    file = next((coloured / "red").iterdir())
    done = subprocess.run(
        [sys.executable, "-c", IMPORTED, f"--run_dir={saved.path}", file],
        env=tiny.environment(),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "keras tensorflow"
