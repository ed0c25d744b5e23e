"""`bin/doctor` as a person starts it, and bad images through every program."""

import csv
import json
from collections import Counter

import numpy as np
import pytest

from engine.core.text import printable
from tests.bin.programs import run, start
from tests.pipelines import bad_images as bad_images
from tests.pipelines.encoded_images import saved

pytestmark = pytest.mark.usefixtures("own_cache")

TRAIN = ("--image_size=64", "--batch_size=8", "--noreport", "--phase=transfer(epochs=1)")


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


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    place = tmp_path_factory.mktemp("trained") / "run"
    out = run("train", *TRAIN, f"--data_dir={data[0]}", f"--run_dir={place}")
    assert "transfer epoch 1" in out
    return place


def every_bad_one_once(named, data) -> None:
    """Those that must be refused and some that may be, and none that is sound."""
    _, laid = data
    assert set(Counter(named).values()) == {1}
    bad = {printable(str(path)) for path in laid.bad}
    odd = {printable(str(path)) for path in laid.odd}
    assert bad <= set(named), sorted(bad - set(named))[:5]
    assert set(named) - bad <= odd


def test_the_bad_images_are_many(data):
    _, laid = data
    assert len(bad_images.KINDS) >= 40
    assert len(laid.bad) + len(laid.odd) >= 200
    contents = {path.read_bytes() for path in laid.odd}
    assert len(contents) > 100, "mutants differ"


def test_training_leaves_them_out_and_names_each_once(data, trained):
    rows = list(csv.DictReader((trained / "bad_images.csv").open(encoding="utf-8")))
    every_bad_one_once([row["path"] for row in rows], data)
    assert all(row["reason"] and "\n" not in row["reason"] for row in rows)
    tried = len(data[1].bad) + len(data[1].odd)
    print(f"bad files: {tried} tried, {len(rows)} left out and named once, none ended a run")


def test_evaluating_leaves_them_out_and_names_each_once(data, trained):
    process = start("evaluate", f"--run_dir={trained}", f"--data_dir={data[0]}", "--format=json")
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    *lines, last = err.splitlines()
    assert f"{trained} was trained on " in last, "some of them"
    assert all(line.startswith("left out: ") for line in lines), "and nothing else is said"
    every_bad_one_once(
        [line.removeprefix("left out: ").rpartition(": ")[0] for line in lines], data
    )
    assert json.loads(out)["count"] >= 40


def test_predicting_answers_for_the_others_and_names_each_once(data, trained):
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


def test_predicting_waits_for_no_pipe_and_reads_no_device(data, trained):
    files = [data[0] / "cats" / name for name in ("pipe.jpg", "zeros.jpg")]
    folder = data[0].parent / "devices"
    folder.mkdir()
    for file in files:
        (folder / file.name).symlink_to(file)
    (folder / "sound.jpg").symlink_to(data[0] / "dogs" / "good 1.jpg")
    process = start("predict", f"--run_dir={trained}", folder)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "sound.jpg" in out
    assert [line.rpartition(": ")[2] for line in err.splitlines()] == ["not a regular file"] * 2


def test_the_doctor_reports_them_and_writes_a_list_that_trains(data, tmp_path):
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
    every_bad_one_once(named, data)
    assert len(named) == found["images"] - found["readable"]
    assert "report.html and doctor/report.json" in out
    page = (tmp_path / "doctor" / "report.html").read_text()
    assert page.startswith("<!doctype html>")
    assert "<script" not in page
    assert out.splitlines()[-1] == f"train with --manifest={list_}"
    ran = run("train", *TRAIN, f"--manifest={list_}", f"--run_dir={tmp_path / 'run'}")
    assert "broken images" not in ran


def test_the_doctor_writes_no_list_over_the_one_that_it_reads(data, tmp_path):
    """Which may have columns and rows that somebody has kept by hand."""
    listed = tmp_path / "list.csv"
    listed.write_text("path,label,note\ncats/good 0.jpg,cats,mine\ndogs/good 1.jpg,dogs,mine\n")
    (tmp_path / "link.csv").symlink_to(listed)
    before = listed.read_bytes()
    flags = (f"--manifest={listed}", f"--manifest_root={data[0]}", "--out=none")
    err = run("doctor", *flags, f"--write_manifest={tmp_path / 'link.csv'}", status=2)
    assert "is the manifest that is read, which stays as it is; name another file" in err
    assert listed.read_bytes() == before


def test_the_doctor_says_in_a_line_what_it_can_not_do(data, tmp_path):
    err = run("doctor", cwd=tmp_path, status=2)
    assert err.startswith("doctor: no images are named; give --data_dir")
    err = run("doctor", f"--data_dir={tmp_path / 'gone'}", cwd=tmp_path, status=1)
    assert "does not exist" in err
    assert err.count("\n") == 1
    (tmp_path / "file").write_text("")
    where = f"--out={tmp_path / 'file' / 'inside'}"
    err = run("doctor", f"--data_dir={data[0]}", where, cwd=tmp_path, status=1)
    assert err.splitlines()[-1].startswith("doctor: --out: ")
    assert not (tmp_path / "doctor").exists()
