"""`bin/doctor` as a person starts it, and bad images through every program."""

import csv
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from engine.cli.flags import FlagError
from engine.commands.shared_options import CacheOptions
from engine.commands.train import TrainOptions, train
from engine.core.errors import UserError
from engine.core.recipe import DataSpec
from engine.core.text import printable
from tests.bin.programs import start
from tests.engine.small_runs import Watcher, small_recipe
from tests.pipelines import bad_images as bad_images
from tests.pipelines.encoded_images import saved

pytestmark = pytest.mark.usefixtures("own_cache")


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


def train_tiny(data: DataSpec, place: Path, cache: Path) -> list[str]:
    """Trains one epoch, and returns the notes."""
    watcher = Watcher()
    recipe = small_recipe(place, ["transfer(epochs=1)"], data=data)
    train(TrainOptions(recipe, place, cache=CacheOptions(cache), report=False), watcher)
    return watcher.notes


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("trained") / "run"
    train_tiny(DataSpec("folders", str(data[0])), place, place.parent / "cache")
    return place


def require_every_bad_image_once(named, data) -> None:
    """Those that must be refused and some that may be, and none that is sound."""
    _, laid = data
    assert set(Counter(named).values()) == {1}
    bad = {printable(str(path)) for path in laid.bad}
    odd = {printable(str(path)) for path in laid.odd}
    assert bad <= set(named), sorted(bad - set(named))[:5]
    assert set(named) - bad <= odd


def test_bad_images_are_of_many_kinds(data):
    _, laid = data
    assert len(bad_images.KINDS) >= 40
    assert len(laid.bad) + len(laid.odd) >= 200
    contents = {path.read_bytes() for path in laid.odd}
    assert len(contents) > 100, "mutants differ"


def test_training_omits_bad_images_and_lists_each_once(data, trained):
    rows = list(csv.DictReader((trained / "bad_images.csv").open(encoding="utf-8")))
    require_every_bad_image_once([row["path"] for row in rows], data)
    assert all(row["reason"] and "\n" not in row["reason"] for row in rows)


def test_evaluation_omits_bad_images_and_names_each_once(call, data, trained):
    flags = (f"--run_dir={trained}", f"--data_dir={data[0]}", "--format=json", "--cache_dir=none")
    out = call("evaluate", *flags)
    lines = call.said.err.splitlines()
    left_out = [line.removeprefix("left out: ") for line in lines if line.startswith("left out: ")]
    require_every_bad_image_once([line.rpartition(": ")[0] for line in left_out], data)
    (other,) = (line for line in lines if not line.startswith("left out: "))
    assert f"{trained} was trained on " in other, "some of them"
    assert json.loads(out)["count"] >= 40


def test_predict_process_names_each_bad_image_once(data, trained):
    root, laid = data
    files = [str(path) for path in (*laid.bad, *laid.odd) if path.is_file()]
    process = start(
        "predict", f"--run_dir={trained}", "--format=json", "--", *files, str(root / "dogs")
    )
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    answers = json.loads(out)
    assert len({answer["path"] for answer in answers}) == len(answers) == len(files) + 20
    unread = {answer["path"] for answer in answers if answer["problem"]}
    named = [line.removeprefix("predict: ").rpartition(": ")[0] for line in err.splitlines()]
    assert Counter(named) == Counter(printable(path) for path in unread)
    assert {str(path) for path in laid.bad if path.is_file()} <= unread


def test_predict_waits_for_no_pipe_and_reads_no_device(call, data, trained, tmp_path):
    for name in ("pipe.jpg", "zeros.jpg"):
        (tmp_path / name).symlink_to(data[0] / "cats" / name)
    (tmp_path / "sound.jpg").symlink_to(data[0] / "dogs" / "good 1.jpg")
    assert "sound.jpg" in call("predict", f"--run_dir={trained}", tmp_path)
    lines = call.said.err.splitlines()
    assert [line.rpartition(": ")[2] for line in lines] == ["not a regular file"] * 2


def test_doctor_process_reports_bad_images_and_writes_a_manifest_that_trains(data, tmp_path):
    root, _ = data
    list_ = root.parent / "clean.csv"
    process = start("doctor", f"--data_dir={root}", f"--write_manifest={list_}", cwd=tmp_path)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert err == "", "decoders keep quiet, and no bar is drawn where nobody looks"
    found = json.loads((tmp_path / "doctor" / "report.json").read_text())
    left_out = ("missing", "unreadable", "empty", "no_image", "bomb", "damaged")
    cases = [one for one in found["findings"] if one["kind"] in left_out]
    named = [case["places"][0] for one in cases for case in one["cases"]]
    require_every_bad_image_once(named, data)
    assert len(named) == found["images"] - found["readable"]
    assert "report.html and doctor/report.json" in out
    page = (tmp_path / "doctor" / "report.html").read_text()
    assert page.startswith("<!doctype html>")
    assert "<script" not in page
    assert out.splitlines()[-1] == f"train with --manifest={list_}"
    notes = train_tiny(DataSpec("manifest", str(list_)), tmp_path / "run", tmp_path / "cache")
    assert not any("broken" in note for note in notes)


def test_doctor_does_not_overwrite_the_manifest_that_it_reads(call, data, tmp_path):
    """It may have columns and rows that somebody added by hand."""
    listed = tmp_path / "list.csv"
    listed.write_text("path,label,note\ncats/good 0.jpg,cats,mine\ndogs/good 1.jpg,dogs,mine\n")
    (tmp_path / "link.csv").symlink_to(listed)
    before = listed.read_bytes()
    flags = (f"--manifest={listed}", f"--manifest_root={data[0]}", "--out=none")
    message = "is the manifest that is read, which stays as it is; name another file"
    with pytest.raises(FlagError, match=message):
        call("doctor", *flags, f"--write_manifest={tmp_path / 'link.csv'}")
    assert listed.read_bytes() == before


def test_manifest_of_record_files_is_refused(call):
    with pytest.raises(FlagError, match="--write_manifest lists files, and the images of"):
        call("doctor", "--dataset=solar_cells", "--write_manifest=list.csv")


def test_doctor_refuses_missing_images_and_an_unwritable_folder(
    call, coloured, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FlagError, match=r"^no images are named; give --data_dir"):
        call("doctor")
    with pytest.raises(UserError, match="does not exist") as raised:
        call("doctor", f"--data_dir={tmp_path / 'gone'}")
    assert "\n" not in str(raised.value)
    (tmp_path / "file").write_text("")
    where = f"--out={tmp_path / 'file' / 'inside'}"
    with pytest.raises(UserError, match=r"^--out: .* can't be written"):
        call("doctor", f"--data_dir={coloured}", where)
    assert "52 images in " in call.said.out
    assert not (tmp_path / "doctor").exists()
