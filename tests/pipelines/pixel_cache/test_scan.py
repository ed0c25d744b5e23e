"""The first look: every broken file is named once, no sound one is, and nothing hangs."""

import csv
import io
import os

import numpy as np
import pytest
from PIL import Image

from engine.core.errors import UserError
from pipelines.decode import decode
from pipelines.pixel_cache import scan
from pipelines.pixel_cache.scan import Broken, leave_out, look, write_report
from pipelines.sources.examples import TRAIN, VALIDATION, from_columns

RNG = np.random.default_rng(3)


def encoded(kind):
    stream = io.BytesIO()
    Image.fromarray(RNG.integers(0, 255, (40, 30, 3), np.uint8)).save(stream, kind)
    return stream.getvalue()


def small(contents):
    return decode.decode(contents, 24, 24)


def make(paths, **columns):
    labels = columns.pop("labels", [0] * len(paths))
    return from_columns([str(path) for path in paths], labels, ("a", "b"), keys=paths, **columns)


@pytest.fixture
def files(tmp_path):
    """Name -> path; those whose name begins with `bad` can't be used."""
    contents = {
        "1.jpg": encoded("JPEG"),
        "2.png": encoded("PNG"),
        "3.webp": encoded("WEBP"),
        "png-in-truth.jpg": encoded("PNG"),
        "bad-empty.jpg": b"",
        "bad-text.jpg": b"not an image at all",
        "bad-cut.jpg": encoded("JPEG")[:200],
        "bad-cut.png": encoded("PNG")[:-900],
        "bad-noise.png": RNG.bytes(5000),
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    os.mkfifo(tmp_path / "bad-pipe.jpg")
    (tmp_path / "bad-folder.jpg").mkdir()
    (tmp_path / "bad-loop.jpg").symlink_to(tmp_path / "bad-loop.jpg")
    names = [*contents, "bad-pipe.jpg", "bad-folder.jpg", "bad-loop.jpg", "bad-none.jpg"]
    return {name: tmp_path / name for name in names}


def test_every_broken_file_is_named_with_a_reason(files):
    examples = make(list(files.values()))
    found = look(examples, small, threads=2)
    expected = [str(path) for name, path in files.items() if name.startswith("bad")]
    assert [one.path for one in found] == expected
    assert [examples.paths[one.index] for one in found] == expected
    reasons = {os.path.basename(one.path): one.reason for one in found}
    assert reasons["bad-empty.jpg"] == "empty file"
    assert reasons["bad-none.jpg"] == "no such file or directory"
    assert reasons["bad-pipe.jpg"] == reasons["bad-folder.jpg"] == "not a regular file"
    assert "JPEG" in reasons["bad-cut.jpg"]
    assert all(reason and "\n" not in reason for reason in reasons.values())


def test_stretches_of_a_file(tmp_path):
    good, cut = encoded("JPEG"), encoded("JPEG")[:150]
    (tmp_path / "records").write_bytes(b"head" + good + cut + good)
    path = tmp_path / "records"
    lengths = [len(good), len(cut), len(good), 10]
    offsets = [4, 4 + len(good), 4 + len(good) + len(cut), 10**6]
    examples = make([path] * 4, offsets=offsets, lengths=lengths)
    found = look(examples, small, threads=2)
    assert [one.index for one in found] == [1, 3]
    assert found[0].path == f"{path}@{offsets[1]}"
    assert "ends before byte" in found[1].reason


def test_all_sound_and_all_broken(files):
    sound = make([path for name, path in files.items() if not name.startswith("bad")] * 100)
    counted = []
    assert look(sound, small, 2, counted.append) == []
    assert counted[-1] == len(sound) == 400
    assert counted == sorted(counted)
    assert len(look(make([files["bad-text.jpg"]] * 5), small, 2)) == 5
    assert look(sound.take(np.array([], dtype=np.int64)), small, 2) == []


@pytest.mark.parametrize("at_first", [True, False], ids=["at first", "when asked again"])
def test_every_sound_image_is_handed_on_once(files, monkeypatch, at_first):
    if not at_first:
        monkeypatch.setattr(scan, "_sound", lambda *_: [])
    kept = {}

    def keep(numbers, facts):
        assert not set(numbers.tolist()) & set(kept)
        columns = (facts.pixels, facts.orientations, facts.fingerprints)
        kept.update(zip(numbers.tolist(), zip(*columns, strict=True), strict=True))

    paths = list(files.values()) * 3
    broken = look(make(paths), small, 2, keep=keep)
    assert sorted([*kept, *(one.index for one in broken)]) == list(range(len(paths)))
    for number, (pixels, orientation, fingerprint) in kept.items():
        np.testing.assert_array_equal(pixels, small(paths[number].read_bytes()))
        assert orientation == 1
        assert (fingerprint == kept[0][2]) == (paths[number] == paths[0])


def test_the_report(tmp_path):
    report = tmp_path / "bad_images.csv"
    write_report(report, [])
    assert report.read_text().splitlines() == ["path,reason"]
    write_report(report, [Broken(3, 'a, "b".jpg', "empty file"), Broken(5, "c", "x, y")])
    with open(report, newline="") as file:
        rows = list(csv.reader(file))
    assert rows == [["path", "reason"], ['a, "b".jpg', "empty file"], ["c", "x, y"]]
    assert os.listdir(tmp_path) == ["bad_images.csv"]


def test_broken_ones_are_left_out_or_end_the_run(tmp_path):
    examples = make(
        ["1", "2", "3", "4"], labels=[0, 0, 1, 1], splits=[TRAIN, TRAIN, TRAIN, VALIDATION]
    )
    report = tmp_path / "bad_images.csv"
    broken = [Broken(1, "2", "empty file")]
    assert leave_out(examples, broken, report, "skip").keys.tolist() == ["1", "3", "4"]
    assert leave_out(examples, [], report, "fail").keys.tolist() == ["1", "2", "3", "4"]
    with pytest.raises(UserError, match=r"1 of 4 .*first is 2 \(empty file\).*bad_images.csv"):
        leave_out(examples, broken, report, "fail")
    assert len(report.read_text().splitlines()) == 2


@pytest.mark.parametrize(("index", "part"), [(2, "train"), (3, "validation")])
def test_a_class_that_loses_all_is_an_error(tmp_path, index, part):
    examples = make(
        ["1", "2", "3", "4"], labels=[0, 0, 1, 1], splits=[TRAIN, TRAIN, TRAIN, VALIDATION]
    )
    with pytest.raises(UserError, match=f"no image of class 'b' in {part} can be used"):
        leave_out(examples, [Broken(index, "x", "empty file")], tmp_path / "bad.csv", "skip")


@pytest.mark.parametrize("names", [["1.jpg", "2.png", "bad-cut.jpg"], ["bad-none.jpg"], []])
def test_it_says_once_when_it_begins_before_the_first_image(files, names):
    told = []
    look(
        make([files[name] for name in names]),
        small,
        threads=2,
        keep=lambda numbers, _: told.append("image"),
        begin=lambda: told.append("begin"),
    )
    assert told[0] == "begin"
    assert told.count("begin") == 1


def test_photographs_are_sound(cats_dogs):
    paths = sorted((cats_dogs / "val" / "cats").iterdir())[:100]
    assert look(make(paths), small, 2) == []
