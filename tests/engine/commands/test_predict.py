"""bin/predict: its formats, decisions, plots, test-time augmentation and addresses."""

from __future__ import annotations

import csv
import functools
import http.server
import itertools
import json
import os
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
import scipy.special
from PIL import Image

from engine.cli.flags import FlagError
from engine.core.errors import UserError
from engine.evaluation import decision_rule
from engine.evaluation.decision_rule import DecisionRule
from engine.inference import gradcam
from engine.loggers import plots
from engine.runs import best_model
from engine.runs.directory import RunDirectory
from engine.runs.load_run import load_run
from pipelines.decode.decode import decode
from tests.engine import saved_run
from tests.pipelines import every_format
from tests.pipelines.every_format import KINDS, SIZES

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


def confusion(labels: np.ndarray, probabilities: np.ndarray) -> list[list[int]]:
    matrix = np.zeros([2, 2], int)
    np.add.at(matrix, (labels, probabilities.argmax(-1)), 1)
    return matrix.tolist()


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
    drawn, draw = [], plots.predictions
    monkeypatch.setattr(plots, "predictions", lambda items: drawn.append(items) or draw(items))
    call("predict", *flags, *files)
    assert [shown.decision for shown in drawn[0]] == [None] * 8
    assert [shown.evidence[1] for shown in drawn[0]] == [shown.labels[0][0] for shown in drawn[0]]
    likeliest = [LABELS.index(shown.labels[0][0]) for shown in drawn[0]]
    shares = [shown.labels[0][1] for shown in drawn[0]]
    positive = LABELS[1 - likeliest[int(np.argmax(shares))]]  # another than the likeliest there
    rule = DecisionRule(2.5, positive, 0.0, 0.9, sorted(shares)[4] - 1e-6)
    best_model.save_decision_rule(run, rule)
    call("predict", *flags, *files)
    decided = ["uncertain" if share < rule.abstain else positive for share in shares]
    assert [shown.decision for shown in drawn[1]] == decided
    pairs = zip(decided, likeliest, strict=True)
    explained = [n if name == "uncertain" else LABELS.index(name) for name, n in pairs]
    assert explained != likeliest, "else little is tested"
    assert [shown.evidence[1] for shown in drawn[1]] == [LABELS[n] for n in explained]
    images = np.stack([shown.image for shown in drawn[1]])
    heats = gradcam.from_classifier(load_run(run).classifier)(images, explained)
    for shown, heat in zip(drawn[1], heats, strict=True):
        np.testing.assert_allclose(shown.evidence[0], gradcam.overlay(shown.image, heat), atol=2)
    assert drawn[1][0].title.endswith(r"caf\xe9.jpg")


@pytest.mark.parametrize("flags", ["--run_dir={}", "--backbone=efficientnet_lite0"])
def test_explained_plot_has_three_columns_and_a_row_for_each_readable_image(
    call, saved, coloured, tmp_path, flags
):
    broken, plot = tmp_path / "broken.jpg", tmp_path / "plot.png"
    broken.write_bytes(b"no image")
    files = [coloured / "red" / "00.jpg", broken, coloured / "blue" / "01.jpg"]
    flags = flags.format(saved.path)
    call("predict", flags, "--batch_size=1", "--explain", f"--plot={plot}", *files)
    with Image.open(plot) as image:
        assert image.size == (1200, 640)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--tta=1", "allowed: a whole number, 2 or more, or flip$"),
        ("--tta=mirror", "allowed: a whole number, 2 or more, or flip$"),
        ("--tta=4", "give --run_dir, or --tta=flip$"),
        ("--explain", "--explain draws into a plot; give --plot=FILE.png with it"),
        ("--overwrite", "--overwrite has no use without --out"),
    ],
)
def test_conflicting_flags_are_refused(call, coloured, flags, message):
    with pytest.raises(FlagError, match=message):
        call("predict", flags, coloured / "red" / "00.jpg")


def test_flip_is_the_mean_over_an_image_and_its_mirror_image(call, saved, coloured, pixel_cache):
    opened = load_run(saved)
    files = sorted(coloured.glob("*/*.jpg"))
    images = np.stack([decode(file.read_bytes(), 32, 32).numpy() for file in files])
    logits = [
        opened.model(view.astype(np.float32), training=False) / opened.rule.temperature
        for view in (images, images[:, :, ::-1])
    ]
    probabilities = np.mean([scipy.special.softmax(one, -1) for one in logits], 0)
    run_dir = f"--run_dir={saved.path}"
    rows = json.loads(call("predict", run_dir, "--tta=flip", "--format=json", *files))
    np.testing.assert_allclose(labelled(rows), probabilities, rtol=0, atol=1e-5)
    flags = (run_dir, f"--data_dir={coloured}", "--format=json", f"--cache_dir={pixel_cache}")
    evaluated = json.loads(call("evaluate", *flags, "--tta=flip"))
    labels = np.array([file.parent.name == "red" for file in files], int)
    assert evaluated["confusion_matrix"] == confusion(labels, probabilities)


def test_predict_and_evaluate_agree_with_the_saved_network_for_every_format(call, saved, tmp_path):
    """The network is Keras' own, and nothing in it is folded."""
    files = [
        every_format.write(tmp_path / LABELS[number % 2], kind, size, number)
        for number, (kind, size) in enumerate(zip(KINDS, itertools.cycle(SIZES), strict=False))
    ]
    rows = json.loads(call("predict", f"--run_dir={saved.path}", "--format=json", *files))
    assert [row["path"] for row in rows] == list(map(str, files))
    opened = load_run(saved)
    images = [decode(path.read_bytes(), *opened.recipe.image_size).numpy() for path in files]
    logits = opened.model(np.stack(images).astype(np.float32), training=False)
    expected = scipy.special.softmax(logits / np.float32(opened.rule.temperature), -1)
    np.testing.assert_allclose(labelled(rows), expected, rtol=0, atol=1e-5)
    flags = (f"--run_dir={saved.path}", f"--data_dir={tmp_path}", "--format=json")
    evaluated = json.loads(call("evaluate", *flags, "--cache_dir=none"))
    labels = np.arange(len(files)) % 2
    assert evaluated["confusion_matrix"] == confusion(labels, expected)
    loss = -scipy.special.log_softmax(logits, -1)[np.arange(len(files)), labels].mean()
    assert evaluated["loss"] == pytest.approx(loss, rel=1e-4)


@pytest.fixture
def address(coloured, monkeypatch):
    """Of an image, on a server of this machine."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=coloured)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/red/00.jpg"
        server.shutdown()
        thread.join()


def test_private_address_is_fetched_only_with_the_flag(call, saved, address):
    flags = (f"--run_dir={saved.path}", "--format=csv", address)
    with pytest.raises(UserError, match="no image could be read"):
        call("predict", *flags)
    assert "--allow_private_urls allows it" in call.said.err
    (row, *_) = csv.DictReader(call("predict", "--allow_private_urls", *flags).splitlines())
    assert row["path"] == address


def test_predict_without_a_run_names_imagenet_classes(call):
    import matplotlib

    image = Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"
    rows = list(csv.DictReader(call("predict", "--format=csv", image).splitlines()))
    assert [row["rank"] for row in rows] == ["1", "2", "3", "4", "5"]
    assert "uniform" in rows[0]["label"]
