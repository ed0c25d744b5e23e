import csv
import dataclasses
import os
import shlex

import numpy as np
import pytest

from engine.core.errors import UserError
from engine.core.recipe import DataSpec
from pipelines.doctor import examine
from pipelines.doctor.clean_manifest import clean_manifest, manifest_flags
from pipelines.sources import sources
from pipelines.sources.examples import from_columns
from tests.pipelines.doctor.scenes import SCENES, jpeg, scene
from tests.pipelines.encoded_images import saved


def near_duplicate(number: int) -> bytes:
    return saved(jpeg(SCENES[number], 50), "JPEG")


def examined_folder(root, files: dict[str, bytes], **options):
    """The examination of these files and two sound ones of each class in each split."""
    parts = {name.split("/")[0] for name in files} & {"train", "val", "test"} or {""}
    sound = {}
    for place, part in enumerate(sorted(parts)):
        for number, name in enumerate(("cats", "dogs", "cats", "dogs")):
            sound[os.path.join(part, name, f"sound{number}.jpg")] = scene(20 + 4 * place + number)
    for name, contents in (sound | files).items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(contents)
    return examine.examine(DataSpec("folders", str(root), **options), 2, lambda *_: None)


def listed(found, file) -> dict[str, dict]:
    """name of file -> row; what training makes of the list is looked at as well."""
    made = clean_manifest(found, str(file))
    file.write_bytes(made.contents)
    words = dict(
        word[2:].split("=", 1) for word in shlex.split(manifest_flags(found.examples, str(file)))
    )
    spec = DataSpec("manifest", words["manifest"], manifest_root=words.get("manifest_root"))
    assert len(sources.load_examples(spec)) == made.listed
    rows = list(csv.DictReader(file.open(encoding="utf-8", errors="surrogateescape", newline="")))
    assert len({row["path"] for row in rows}) == len(rows) == made.listed
    assert made.listed + sum(made.omitted.values()) == len(found.examples)
    return {os.path.basename(row["path"]): row for row in rows}


def test_manifest_lists_fit_images_only(examined, data):
    rows = listed(examined, data.parent / "clean.csv")
    stems = {name.split(".")[0] for name in rows}
    assert not {"empty", "text", "cut", "bomb", "other"} & stems
    assert not {"of_other_label", "1", "leak", "near_leak"} & stems
    assert ("0.jpg" in rows) != ("copy.jpg" in rows), "one of two copies stays"
    assert {"20.jpg", "21.jpg"} <= set(rows), "what is measured on stays"
    assert rows["2.jpg"]["group"] == rows["again.png"]["group"] != ""
    assert {row["split"] for row in rows.values()} == {"train", "validation"}


def test_manifest_counts_omitted_images_by_reason(examined):
    omitted = clean_manifest(examined, "clean.csv").omitted
    assert omitted == {
        "that can't be read": 5,
        "under several labels": 2,
        "duplicates": 2,
        "near-duplicates of validation or test images": 1,
    }


def test_manifest_of_data_without_validation_split_leaves_split_open(tmp_path):
    rows = listed(
        examined_folder(tmp_path / "data", {"cats/a.jpg": scene(0)}), tmp_path / "list.csv"
    )
    assert len(rows) == 5
    assert {row["split"] for row in rows.values()} == {""}
    assert all(row["path"].startswith("data/") for row in rows.values()), "both can move together"


@pytest.mark.parametrize("part", ["val", "test"])
def test_manifest_omits_training_near_duplicates_of_held_out_images(tmp_path, part):
    files = {"train/cats/a.jpg": scene(0), f"{part}/cats/b.jpg": near_duplicate(0)}
    rows = listed(examined_folder(tmp_path / "data", files), tmp_path / "list.csv")
    assert "a.jpg" not in rows
    assert rows["b.jpg"]["group"] == ""


def test_manifest_keeps_near_duplicates_in_validation_and_test(tmp_path):
    files = {
        "train/cats/x.jpg": scene(3),
        "val/cats/a.jpg": scene(0),
        "test/cats/b.jpg": near_duplicate(0),
    }
    rows = listed(examined_folder(tmp_path / "data", files), tmp_path / "list.csv")
    assert {rows["a.jpg"]["split"], rows["b.jpg"]["split"]} == {"validation", "test"}


def test_manifest_omits_direct_neighbours_of_held_out_images_only():
    """0 to 4 look like their neighbours; 0 is measured on."""
    labels, splits = [0, 0, 0, 0, 0], [1, 0, 0, 0, 0]
    names = [f"{number}.jpg" for number in range(5)]
    examples = from_columns(names, labels, ("cats", "dogs"), keys=names, splits=splits)
    pairs = np.array([[0, 1], [1, 2], [2, 3], [3, 4]])
    found = examine.ExaminedDataset(examples, True, np.arange(5), pairs, None)
    rows = list(csv.DictReader(clean_manifest(found, "l.csv").contents.decode().splitlines()))
    assert [row["path"] for row in rows] == ["0.jpg", "2.jpg", "3.jpg", "4.jpg"]
    assert [row["group"] for row in rows] == ["", *["alike: 2.jpg"] * 3]


def test_manifest_merges_groups_connected_by_near_duplicates(tmp_path):
    files = {"a.jpg": scene(0), "b.jpg": near_duplicate(0), "c.jpg": scene(1), "d.jpg": scene(2)}
    for name, contents in (files | {f"s{n}.jpg": scene(10 + n) for n in range(4)}).items():
        (tmp_path / name).write_bytes(contents)
    text = "path,label,group\na.jpg,x,g1\nb.jpg,x,g2\nc.jpg,y,g2\nd.jpg,y,g3\n"
    text += "s0.jpg,x,\ns1.jpg,y,\ns2.jpg,x,\ns3.jpg,y,\n"
    (tmp_path / "in.csv").write_text(text)
    spec = DataSpec("manifest", str(tmp_path / "in.csv"))
    rows = listed(examine.examine(spec, 2, lambda *_: None), tmp_path / "out.csv")
    assert [rows[f"{name}.jpg"]["group"] for name in "abcd"] == ["g1", "g1", "g1", "g3"]
    assert rows["s0.jpg"]["group"] == ""


def test_manifest_groups_near_duplicate_of_a_dropped_duplicate(tmp_path):
    files = {"cats/a.jpg": scene(0), "cats/a2.jpg": scene(0), "cats/b.jpg": near_duplicate(0)}
    rows = listed(examined_folder(tmp_path / "data", files), tmp_path / "list.csv")
    assert rows["a.jpg"]["group"] == rows["b.jpg"]["group"] != ""
    assert "a2.jpg" not in rows


def test_manifest_flags_name_the_root_behind_links(tmp_path):
    found = examined_folder(tmp_path / "real store" / "data", {"cats/a.jpg": scene(0)})
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "data").symlink_to(tmp_path / "real store" / "data")
    spec = DataSpec("folders", str(tmp_path / "linked" / "data"))
    behind = examine.examine(spec, 2, lambda *_: None)
    listed(behind, tmp_path / "linked" / "list.csv")
    (tmp_path / "elsewhere").mkdir()
    listed(found, tmp_path / "elsewhere" / "list.csv")
    place = tmp_path / "real store" / "data" / "list.csv"
    assert shlex.split(manifest_flags(found.examples, str(place))) == [f"--manifest={place}"]


def test_manifest_keeps_odd_file_names(tmp_path):
    names = ["a\rb.jpg", 'a"b,c.jpg', "two\nlines.jpg", os.fsdecode(b"\xff.jpg")]
    found = examined_folder(
        tmp_path / "data", {f"cats/{name}": scene(n) for n, name in enumerate(names)}
    )
    assert set(names) <= set(listed(found, tmp_path / "list.csv"))


def test_manifest_of_classes_with_equal_names_is_refused(tmp_path):
    found = examined_folder(tmp_path / "data", {"cats /a.jpg": scene(0), "cats /b.jpg": scene(1)})
    with pytest.raises(UserError, match="both be called 'cats'; rename one"):
        clean_manifest(found, "list.csv")


def test_manifest_of_record_files_is_refused(examined):
    inside = examined.examples.replace(lengths=np.full(len(examined.examples), 9))
    records = dataclasses.replace(examined, examples=inside)
    with pytest.raises(UserError, match="record files"):
        clean_manifest(records, "list.csv")
