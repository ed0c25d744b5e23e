"""bin/doctor, and bad images through every program."""

import csv
import datetime
import gc
import json
from collections import Counter
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest

from engine.cli.parsed_flags import FlagError
from engine.commands.doctor import DoctorOptions
from engine.commands.shared_options import CacheOptions
from engine.commands.train import TrainOptions, train
from engine.core.errors import UserError
from engine.core.recipe import DataSpec
from engine.core.text import printable
from tests.bin.programs import start
from tests.engine.small_runs import Watcher, small_recipe
from tests.pipelines import bad_images
from tests.pipelines.encoded_images import saved


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Two classes of 20 sound images each, and all the bad ones in one of them."""
    root = tmp_path_factory.mktemp("bad") / "data"
    laid = bad_images.lay_out(root / "cats")
    (root / "dogs").mkdir()
    for number in range(40):
        image = bad_images.noisy(np.random.default_rng((9, number)))
        place = root / ("cats", "dogs")[number % 2] / f"good {number}.jpg"
        place.write_bytes(saved(image, "JPEG"))
    return root, laid


def train_tiny(data: DataSpec, place: Path) -> list[str]:
    """Trains one epoch, and returns the notes."""
    watcher = Watcher()
    recipe = small_recipe(place, ["transfer(epochs=1)"], data=data)
    train(TrainOptions(recipe, place, report=False), watcher)
    return watcher.notes


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("trained") / "run"
    train_tiny(DataSpec("folders", str(data[0])), place)
    return place


def require_every_bad_image_once(named, data) -> None:
    """Those that must be refused and some that may be, and none that is sound."""
    laid = data[1]
    assert len(laid.bad) > 40
    assert set(Counter(named).values()) == {1}
    bad = {printable(str(path)) for path in laid.bad}
    odd = {printable(str(path)) for path in laid.odd}
    assert bad <= set(named), sorted(bad - set(named))[:5]
    assert set(named) - bad <= odd


def test_training_omits_bad_images_and_lists_each_once(data, trained):
    rows = list(csv.DictReader((trained / "bad_images.csv").open(encoding="utf-8")))
    require_every_bad_image_once([row["path"] for row in rows], data)
    assert all(row["reason"] and "\n" not in row["reason"] for row in rows)


def test_evaluation_omits_bad_images_and_names_each_once(call, data, trained):
    flags = (f"--run_dir={trained}", f"--data_dir={data[0]}", "--format=json", "--cache_dir=none")
    out = call("evaluate", *flags)
    lines = call.said.err.splitlines()
    omitted = [line.removeprefix("left out: ") for line in lines if line.startswith("left out: ")]
    require_every_bad_image_once([line.rpartition(": ")[0] for line in omitted], data)
    assert "passed over 2 files or folders: 2 other than regular files" in call.said.err
    assert len(omitted) == len(lines) - 2
    assert f"{trained} was trained on " in call.said.err
    assert json.loads(out)["count"] >= 40


def test_predict_process_names_each_bad_image_once(data, trained):
    root, laid = data
    files = [str(path) for path in (*laid.bad, *laid.odd) if path.is_file()]
    process = start(
        "predict", f"--run_dir={trained}", "--format=json", "--", *files, str(root / "dogs")
    )
    out, err = process.communicate(timeout=300)
    assert process.returncode == 1, err
    answers = json.loads(out)
    assert len({answer["path"] for answer in answers}) == len(answers) == len(files) + 20
    unread = {answer["path"] for answer in answers if answer["problem"]}
    *problems, summary = err.splitlines()
    assert f"{len(unread)} of {len(answers)} images could not be read" in summary
    named = [line.removeprefix("predict: ").rpartition(": ")[0] for line in problems]
    assert Counter(named) == Counter(printable(path) for path in unread)
    assert {str(path) for path in laid.bad if path.is_file()} <= unread


def test_predict_passes_over_pipes_and_devices(call, data, trained, tmp_path):
    for name in ("pipe.jpg", "zeros.jpg"):
        (tmp_path / name).symlink_to(data[0] / "cats" / name)
    (tmp_path / "sound.jpg").symlink_to(data[0] / "dogs" / "good 1.jpg")
    assert "sound.jpg" in call("predict", f"--run_dir={trained}", tmp_path)
    assert "passed over 2 files or folders: 2 other than regular files" in call.said.err


def test_doctor_process_reports_bad_images_and_writes_a_manifest_that_trains(data, tmp_path):
    root, _ = data
    list_ = root.parent / "clean.csv"
    process = start("doctor", f"--data_dir={root}", f"--write_manifest={list_}", cwd=tmp_path)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 1, "the images have errors"
    assert err == "", "decoders are silent, and no bar is drawn without a terminal"
    found = json.loads((tmp_path / "doctor" / "report.json").read_text())
    kinds = ("missing", "unreadable", "empty", "no_image", "bomb", "damaged")
    cases = [case for one in found["findings"] if one["kind"] in kinds for case in one["cases"]]
    require_every_bad_image_once([case["places"][0] for case in cases], data)
    assert len(cases) == found["images"] - found["readable"]
    assert "report.html and doctor/report.json" in out
    assert (tmp_path / "doctor" / "report.html").read_text().startswith("<!doctype html>")
    assert out.splitlines()[-1] == f"train with --manifest={list_}"
    notes = train_tiny(DataSpec("manifest", str(list_)), tmp_path / "run")
    assert not any("broken" in note for note in notes)


def test_doctor_with_an_unwritable_folder_prints_its_findings(call, coloured, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"^--out: .* can't be written"):
        call("doctor", f"--data_dir={coloured}", f"--out={tmp_path / 'file' / 'inside'}")
    assert "52 images in " in call.said.out


@pytest.mark.parametrize(
    ("out", "folder"), [("none", None), ("./none", "none"), ("~/page", "page"), ("", None)]
)
def test_doctor_writes_its_report_to_the_folder_that_out_names(
    call, coloured, tmp_path, monkeypatch, out, folder
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    with nullcontext() if out else pytest.raises(FlagError, match="--out= is empty; give a path"):
        call("doctor", f"--data_dir={coloured}", f"--out={out}")
    assert [path.name for path in tmp_path.iterdir()] == ([folder] if folder else [])


def test_manifest_may_be_named_by_text_from_python():
    assert DoctorOptions(data=DataSpec("folders", "x"), write_manifest="a.csv").write_manifest


def test_pixel_caches_are_shown_and_cleared(call, data, tmp_path):
    folder = tmp_path / "cache"
    flag = f"--cache_dir={folder}"
    assert f"0 bytes removed from {folder}\n" in call("doctor", "--pixel_cache=clear", flag)
    spec = DataSpec("folders", str(data[0]))
    recipe = small_recipe(tmp_path, ["transfer(epochs=1)"], data=spec)
    options = TrainOptions(recipe, tmp_path / "run", report=False, cache=CacheOptions(folder, 0))
    train(options, Watcher())
    gc.collect()  # closes the cache
    (name,) = (path.name for path in folder.glob("pixels-*"))
    shown = call("doctor", "--pixel_cache=show", flag)
    assert shown.startswith(f"1 cache of decoded images in {folder}, ")
    assert f"last used {datetime.date.today()}  {name}" in shown
    cleared = call("doctor", "--pixel_cache=clear", flag)
    assert f"0 caches of decoded images in {folder}, 0 bytes" in cleared
    assert list(folder.glob("pixels-*")) == []
