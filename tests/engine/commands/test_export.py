"""bin/export as a person starts it."""

from __future__ import annotations

import json
import re
import shutil
import signal

import numpy as np
import pytest
import tensorflow as tf

from engine.core.files import write
from engine.evaluation.decision_rule import DecisionRule
from engine.runs import best_model, load
from engine.runs.best_model import BestModel
from engine.runs.checkpoints import TrainState, pack
from engine.runs.directory import RunDirectory
from tests.bin.programs import run, start
from tests.engine.small_runs import Watcher, job, small_recipe

pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture(scope="module")
def small_photographs(coloured, tmp_path_factory):
    """The run's own, to be moved away."""
    place = tmp_path_factory.mktemp("data") / "coloured"
    shutil.copytree(coloured, place)
    return place


@pytest.fixture(scope="module")
def trained(images, tmp_path_factory) -> RunDirectory:
    """A run's directory with a model and a rule, as training leaves it."""
    place = tmp_path_factory.mktemp("trained") / "run"
    made = job(small_recipe(images), place, Watcher())
    best = BestModel(made.run, made.loader.classes)
    best.replace(made.classifier.model.weights)
    best.set_rule(DecisionRule(temperature=1.5, abstain=0.5))
    best.save(TrainState())
    return made.run


@pytest.fixture(scope="module")
def exported(trained, tmp_path_factory):
    """(folder, what was printed) of an export to a SavedModel."""
    out = tmp_path_factory.mktemp("exported") / "out"
    process = start("export", f"--run_dir={trained.path}", "--format=saved_model", f"--out={out}")
    printed, err = process.communicate(timeout=600)
    assert process.returncode == 0, err
    assert err == "", "converters and TensorFlow are to be silent"
    return out, printed


def test_it_says_in_plain_words_what_it_does(exported):
    out, printed = exported
    lines = printed.splitlines()
    assert lines[:3] == [
        "reading the images",
        "converting to SavedModel, float32",
        "comparing it with the original on 13 validation images",
    ]
    assert [line.split("  ")[0] for line in lines[4:13]] == [
        *("images", "same likeliest label", "same answer by the rule", "largest difference"),
        *("mean difference", "accuracy", "size", "one image, decoded", "8 images, decoded"),
    ]
    assert lines[-1] == f"written to {out}"


def test_the_folder_holds_model_card_and_parity(exported, trained):
    out, _ = exported
    assert {path.name for path in out.iterdir()} == {"1", "MODEL_CARD.md", "parity.json"}
    parity = json.loads((out / "parity.json").read_text())
    assert parity["images"] == 13
    assert parity["agreement"] == parity["same_decisions"] == 1
    assert parity["largest_difference"] < 1e-5
    files = [path for path in (out / "1").rglob("*") if path.is_file()]
    assert parity["bytes"] == sum(path.stat().st_size for path in files)
    assert parity["min_agreement"] == 0.995
    opened = load.load_run(trained)
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3)).astype(np.uint8)
    signature = tf.saved_model.load(str(out / "1")).signatures["pixels"]
    chances = signature(images=tf.constant(images))["probabilities"].numpy()
    logits = opened.model(images.astype(np.float32), training=False).numpy() / 1.5
    shares = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    assert np.abs(chances - shares).max() < 1e-5


def test_an_earlier_export_is_not_overwritten_unasked(exported, trained):
    out, _ = exported
    message = run("export", f"--run_dir={trained.path}", "--format=keras", f"--out={out}", status=1)
    assert "add --overwrite" in message
    assert (out / "1" / "saved_model.pb").exists()


def test_int8_is_calibrated_and_measured_on_images_that_lie_elsewhere_now(
    trained, images, tmp_path
):
    moved, out = tmp_path / "moved", tmp_path / "there" / "out"
    arguments = (
        f"--run_dir={trained.path}", "--format=litert", "--precision=int8", "--min_agreement=0",
        f"--out={out}",
    )  # fmt: skip
    images.rename(moved)
    try:
        message = run("export", *arguments, status=1)
        assert "name the place as in training: --data_dir" in message
        assert "Traceback" not in message
        printed = run("export", *arguments, f"--data_dir={moved}")
    finally:
        moved.rename(images)
    assert "on 13 validation images" in printed, "divided as the run divides them"
    parity = json.loads((out / "parity.json").read_text())
    assert parity["precision"] == "int8"
    assert parity["share_of_weights"] < 0.4
    assert [path.name for path in out.parent.iterdir()] == ["out"]


def test_an_export_that_disagrees_leaves_nothing(trained, tmp_path):
    """In float16 weights end at 65504: what makes two columns of them differ is lost."""
    spoilt = RunDirectory(tmp_path / "run")
    shutil.copytree(trained.path, spoilt.path)
    arrays, values = best_model.load_best_model(spoilt)
    arrays[-2] = arrays[-2] * 100 + np.float32(1e5)
    values["rule"]["abstain"] = 0.6
    write(spoilt.best, pack({"model": arrays}, values))
    process = start(
        "export", f"--run_dir={spoilt.path}", "--format=litert", "--precision=float16",
        f"--out={tmp_path / 'deep' / 'out'}",
    )  # fmt: skip
    printed, message = process.communicate(timeout=600)
    assert process.returncode == 1
    assert "nothing was written; take another --format or --precision" in message
    assert re.search(r" of \d+ of 13 images, more than --min_agreement=0\.995 allows", message)
    assert len(message.splitlines()) == 1
    shown = [line.split("  ")[0] for line in printed.splitlines()]
    assert "same likeliest label" in shown, "what it is judged by"
    assert {"images", "accuracy", "size", "one image"} < set(shown)
    assert "written to" not in printed
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


@pytest.mark.parametrize(
    ("wish", "when"), [(signal.SIGINT, "reading"), (signal.SIGTERM, "converting")]
)
def test_one_that_is_stopped_leaves_nothing(trained, tmp_path, wish, when):
    process = start(
        "export", f"--run_dir={trained.path}", "--format=onnx", f"--out={tmp_path / 'a' / 'b'}"
    )
    for line in process.stdout:
        if line.startswith(when):
            break
    process.send_signal(wish)
    _, err = process.communicate(timeout=600)
    assert process.returncode == 128 + wish
    assert err == f"export: stopped by {wish.name}; nothing is left behind\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "--run_dir is missing"),
        (("--run_dir=R", "--out=o"), "--format is missing; allowed: saved_model, litert, onnx"),
        (("--run_dir=R", "--format=onnx"), "--out is missing; name the folder to make"),
        (
            ("--format=tflite",),
            "(did you mean 'litert'?); allowed: saved_model, litert, onnx",
        ),
        (("--precision=int4",), "'int4' does not exist (did you mean 'int8'?)"),
        (
            ("--run_dir=R", "--out=o", "--format=onnx", "--precision=float16"),
            "--precision=float16 goes with --format=litert",
        ),
        (
            ("--run_dir=R", "--out=o", "--format=onnx", "--min_agreement=99.5"),
            "--min_agreement=99.5; allowed: a share from 0 to 1, such as 0.995 for 99.5%",
        ),
        (("--min_agreement=-1",), "allowed: a number, 0 or more"),
    ],
)
def test_flags_that_do_not_fit_are_told(arguments, message, tmp_path):
    told = run("export", *arguments, cwd=tmp_path, status=2)
    assert message in told
    assert len(told.splitlines()) == 1


def test_data_flags_want_other_data(trained, tmp_path):
    told = run(
        "export", f"--run_dir={trained.path}", "--format=onnx", f"--out={tmp_path / 'o'}",
        "--split_seed=3", status=2,
    )  # fmt: skip
    assert "--split_seed goes with other data" in told


def test_no_run_and_no_place(trained, tmp_path):
    told = run("export", f"--run_dir={tmp_path}", "--format=onnx", "--out=o", status=1)
    assert "holds no run" in told
    (tmp_path / "thesis.txt").write_text("")
    told = run(
        "export", f"--run_dir={trained.path}", "--format=onnx", f"--out={tmp_path}", status=1
    )
    assert "is not empty and holds no export" in told
