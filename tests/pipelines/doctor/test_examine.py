import io
import os

import pytest
from PIL import Image

from engine.core.errors import UserError
from engine.core.findings import LEVELS
from engine.core.recipe import DataSpec
from pipelines.doctor import examine
from pipelines.sources import sources
from tests.pipelines.doctor.scenes import scene


def names(case) -> str:
    return " ".join(sorted(os.path.basename(place.split(" (")[0]) for place in case.places))


def test_each_problem_is_reported_once_under_its_kind(data, examined):
    findings = {one.name: [names(case) for case in one.cases] for one in examined.summary.findings}
    levels = [one.kind.level for one in examined.summary.findings]
    assert levels == sorted(levels, key=LEVELS.index)
    assert findings.pop("refused") == ["data"]
    with pytest.raises(UserError) as caught:  # the same file is in two splits
        sources.load_examples(DataSpec("folders", str(data)))
    assert examined.summary.findings[0].cases[0].detail == str(caught.value)
    assert findings == {
        "empty": ["empty.jpg"],
        "no_image": ["other.jpg", "text.jpg"],
        "bomb": ["bomb.png"],
        "damaged": ["cut.jpg"],
        "duplicates_across_splits": ["20.jpg leak.jpg"],
        "duplicates_of_other_label": ["1.jpg of_other_label.jpg"],
        "near_duplicates_across_splits": ["21.jpg near_leak.jpg"],
        "near_duplicates_of_other_label": ["22.jpg near_label.jpg"],
        "one_colour": ["black.png"],
        "tiny": ["tiny.png"],
        "narrow": ["long.png"],
        "imbalance": ["cats", "dogs"],
        "duplicates": ["0.jpg copy.jpg"],
        "near_duplicates": ["2.jpg again.png"],
        "wrong_name": ["named.png"],
        "several_frames": ["moving.gif"],
        "turned": ["turned.jpg"],
    }


def test_refused_data_is_limited_too(tmp_path):
    for name in ("cats", "dogs"):
        (tmp_path / name).mkdir()
        for number in range(6):
            (tmp_path / name / f"{number}.jpg").write_bytes(scene(number))
    dataset = examine.examine(
        DataSpec("folders", str(tmp_path), limit_examples=1), 2, lambda *_: None
    )
    assert dataset.summary.findings[0].name == "refused"
    assert len(dataset.examples) == 2


def test_what_is_passed_over_is_a_note_with_a_case_for_each_reason(tmp_path):
    for name in ("a/0.jpg", "a/1.jpg", "b/2.jpg", "b/3.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(scene(int(name[2])))
    for name in ("a/notes.txt", "b/labels.json", "b/Thumbs.db"):
        (tmp_path / name).write_bytes(b"no image")
    spec = DataSpec("folders", str(tmp_path))
    summary = examine.examine(spec, 2, lambda *_: None).summary
    (passed,) = (one for one in summary.findings if one.name == "passed_over")
    assert {case.detail: names(case) for case in passed.cases} == {
        "2 without an image's name or contents": "labels.json notes.txt",
        "1 hidden or of the system": "Thumbs.db",
    }


def test_classes_that_a_split_lacks_are_notes(tmp_path):
    for number, name in enumerate(("train/cats", "train/dogs", "train/owls", "val/dogs")):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "1.jpg").write_bytes(scene(number))
    spec = DataSpec("folders", str(tmp_path))
    (finding,) = examine.examine(spec, 2, lambda *_: None).summary.findings
    assert (finding.name, finding.kind.level) == ("missing_class", "note")
    assert [case.places for case in finding.cases] == [("cats",), ("owls",)]


def test_folder_name_not_in_utf8_is_reported_escaped(tmp_path):
    place = os.path.join(os.fsencode(tmp_path), b"\xff", b"only")
    os.makedirs(place)
    with open(os.path.join(place, b"a.jpg"), "wb") as file:
        file.write(scene(0))
    spec = DataSpec("folders", os.fsdecode(os.path.dirname(place)))
    dataset = examine.examine(spec, 2, lambda *_: None)
    assert dataset.summary.findings[0].name == "refused"
    assert "\\xff" in dataset.summary.root


def test_summary_counts_images_of_each_split_and_class(examined, data):
    summary = examined.summary
    assert summary.root == f"{data}/"
    assert summary.images == len(examined.examples)
    assert summary.readable == summary.images - 5
    assert summary.counts == {
        "train": {"cats": 27, "dogs": 2},
        "validation": {"cats": 4, "dogs": 5},
    }


def test_thumbnail_is_a_jpeg_of_a_readable_example_only(examined):
    paths = [os.path.basename(path) for path in examined.examples.paths]
    thumbnail = Image.open(io.BytesIO(examined.thumbnail(paths.index("turned.jpg"))))
    assert (thumbnail.format, thumbnail.size) == ("JPEG", (examine.THUMBNAIL_SIDE,) * 2)
    assert examined.thumbnail(paths.index("cut.jpg")) is None
