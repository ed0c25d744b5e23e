"""bin/export and its command: what is written, what is compared, and what is refused."""

from __future__ import annotations

import json
import re
import shutil
import signal

import numpy as np
import pytest

from engine.cli import command_line
from engine.cli import export as cli_export
from engine.cli import flags as cli_flags
from engine.commands.export import ExportOptions, export
from engine.core.digests import write
from engine.core.errors import UserError
from engine.evaluation.decision_rule import DecisionRule
from engine.runs import best_model
from engine.runs.checkpoints import pack
from engine.runs.directory import RunDirectory
from pipelines.loading import prepare
from tests.bin.programs import start
from tests.engine import saved_run
from tests.engine.small_runs import Watcher, small_recipe


@pytest.fixture(scope="module")
def photographs(coloured, tmp_path_factory):
    """The run's own, to be moved away."""
    return shutil.copytree(coloured, tmp_path_factory.mktemp("data") / "coloured")


@pytest.fixture(scope="module")
def trained(photographs, tmp_path_factory) -> RunDirectory:
    """A run of these images, with a rule."""
    place = tmp_path_factory.mktemp("trained") / "run"
    rule = DecisionRule(temperature=1.5, abstain=0.5)
    return saved_run.save(place, rule, ("blue", "red"), small_recipe(photographs))


@pytest.fixture(scope="module")
def exported(trained, tmp_path_factory):
    """(folder, what was printed) of an export to a SavedModel."""
    out = tmp_path_factory.mktemp("exported") / "out"
    process = start("export", f"--run_dir={trained.path}", "--format=saved_model", f"--out={out}")
    printed, err = process.communicate(timeout=600)
    assert process.returncode == 0, err
    assert err == "", "converters and TensorFlow are to be silent"
    return out, printed


def options_of(*arguments) -> ExportOptions:
    groups = (cli_export.define_export, cli_flags.define_data)
    return cli_export.export_options(command_line.parse("", groups, ["bin/export", *arguments]))


def test_program_prints_its_steps_and_the_comparison(exported):
    out, printed = exported
    lines = printed.splitlines()
    assert lines[:3] == [
        "reading images",
        "converting to SavedModel, float32",
        "comparing the export with the original on 13 validation images",
    ]
    assert [line.split("  ")[0] for line in lines[4:13]] == [
        *("images", "same most likely label", "same decision", "largest difference"),
        *("mean difference", "accuracy", "size", "one image, decoded", "8 images, decoded"),
    ]
    assert lines[-1] == f"written to {out}"


def test_folder_holds_model_card_and_parity(exported):
    """The exported model's predictions are compared in the tests of each format."""
    out, _ = exported
    assert {path.name for path in out.iterdir()} == {"1", "MODEL_CARD.md", "parity.json"}
    parity = json.loads((out / "parity.json").read_text())
    assert parity["images"] == 13
    assert parity["agreement"] == parity["same_decisions"] == 1
    assert parity["largest_difference"] < 1e-5
    assert parity["min_agreement"] == 0.995


def test_warnings_about_images_go_to_the_error_stream(call, trained, tmp_path, monkeypatch):
    def prepare_data(recipe, classes, split, threads, log, *cache):
        log("left out: a.jpg: empty file")
        raise UserError("gone")

    monkeypatch.setattr(prepare, "prepare_evaluation_data", prepare_data)
    flags = (f"--run_dir={trained.path}", "--format=keras", f"--out={tmp_path / 'out'}")
    with pytest.raises(UserError, match="images can't be read"):
        call("export", *flags)
    assert call.said == ("reading images\n", "left out: a.jpg: empty file\n")


def test_int8_is_calibrated_and_measured_on_moved_images(trained, photographs, tmp_path, capfd):
    moved, out = tmp_path / "moved", tmp_path / "there" / "out"
    own = ("--precision=int8", "--min_agreement=0", f"--out={out}")
    flags = (f"--run_dir={trained.path}", "--format=litert", *own)
    photographs.rename(moved)
    try:
        with pytest.raises(UserError, match="name the place as in training: --data_dir"):
            export(options_of(*flags))
        result = export(options_of(*flags, f"--data_dir={moved}"))
    finally:
        moved.rename(photographs)
    assert result.parity.images == 13, "divided as the run divides them"
    assert result.path == out / "model.tflite"
    assert result.path.is_file()
    assert json.loads((out / "parity.json").read_text())["precision"] == "int8"
    assert [path.name for path in out.parent.iterdir()] == ["out"]
    printed, logged = capfd.readouterr()
    logs = r"^(E\d{4}|WARNING: All log messages before) .*\n"  # TensorFlow's own
    assert (printed, re.sub(logs, "", logged, flags=re.MULTILINE)) == ("", "")


def test_export_that_disagrees_leaves_nothing(trained, tmp_path):
    """In float16 weights end at 65504: what makes two columns of them differ is lost."""
    spoilt = RunDirectory(tmp_path / "run")
    shutil.copytree(trained.path, spoilt.path)
    arrays, values = best_model.load_best_model(spoilt)
    arrays[-2] = arrays[-2] * 100 + np.float32(1e5)
    values["rule"]["abstain"] = 0.6
    write(spoilt.best, pack({"model": arrays}, values))
    watcher = Watcher()
    options = ExportOptions(spoilt.path, "litert", tmp_path / "deep" / "out", precision="float16")
    with pytest.raises(UserError) as caught:
        export(options, watcher)
    message = str(caught.value)
    assert "nothing was written; choose another --format or --precision" in message
    assert re.search(r" of \d+ of 13 images, more than --min_agreement=0\.995 allows", message)
    shown = {line.split("  ")[0] for line in watcher.notes}
    assert {"images", "same most likely label", "accuracy", "size", "one image"} <= shown
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_sigterm_in_a_converter_leaves_nothing(trained, tmp_path):
    out = tmp_path / "a" / "b"
    process = start("export", f"--run_dir={trained.path}", "--format=onnx", f"--out={out}")
    for line in process.stdout:
        if line.startswith("converting"):
            break
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=600)
    assert process.returncode == 128 + signal.SIGTERM
    assert err == "export: stopped by SIGTERM; nothing is left behind\n"
    assert list(tmp_path.iterdir()) == []


def test_folder_in_use_is_refused(exported, trained, tmp_path):
    (tmp_path / "thesis.txt").write_text("")
    for folder, message in {tmp_path: "not empty and not an ex", exported[0]: "overwrite"}.items():
        with pytest.raises(UserError, match=message):
            export(ExportOptions(trained.path, "onnx", folder))
