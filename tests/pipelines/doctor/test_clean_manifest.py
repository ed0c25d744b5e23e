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
from tests.pipelines.doctor.scenes import scene


def examined_folder(root, names: list[str], **options):
    """The examination of two fit images of each class, and of images of these names."""
    names = [*(f"{name}/{name}{n}.jpg" for name in ("cats", "dogs") for n in range(2)), *names]
    for number, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(scene(number))
    return examine.examine(DataSpec("folders", str(root), **options), 2, lambda *_: None)


def rows_of(count, labels=None, fingerprints=None, pairs=(), has_validation=True, **columns):
    """The rows of a manifest of images 0, 1, …, by their names, as (split, group)."""
    names = [str(number) for number in range(count)]
    examples = from_columns(names, labels or [0] * count, ("cats", "dogs"), keys=names, **columns)
    numbers = np.arange(count) if fingerprints is None else np.array(fingerprints)
    pairs = np.array(pairs, np.int64).reshape(-1, 2)
    dataset = examine.ExaminedDataset(examples, has_validation, numbers, pairs, None)
    rows = csv.DictReader(clean_manifest(dataset, "l.csv").contents.decode().splitlines())
    return {row["path"]: (row["split"], row["group"]) for row in rows}


def listed(dataset, file) -> dict[str, dict]:
    """name of file -> row; what training makes of the list is looked at as well."""
    manifest = clean_manifest(dataset, str(file))
    file.write_bytes(manifest.contents)
    words = dict(
        word[2:].split("=", 1) for word in shlex.split(manifest_flags(dataset.examples, str(file)))
    )
    spec = DataSpec("manifest", words["manifest"], manifest_root=words.get("manifest_root"))
    examples = sources.load_examples(spec)
    assert len(examples) == manifest.listed
    assert all(map(os.path.isfile, examples.paths))
    rows = list(csv.DictReader(file.open(encoding="utf-8", errors="surrogateescape", newline="")))
    assert len({row["path"] for row in rows}) == len(rows) == manifest.listed
    assert manifest.listed + sum(manifest.omitted.values()) == len(dataset.examples)
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
    rows = listed(examined_folder(tmp_path / "data", []), tmp_path / "list.csv")
    assert len(rows) == 4
    assert {row["split"] for row in rows.values()} == {""}
    assert all(row["path"].startswith("data/") for row in rows.values()), "both can move together"
    open_and_test = rows_of(3, splits=[0, 1, 2], has_validation=False)
    assert [split for split, _ in open_and_test.values()] == ["", "", "test"]


@pytest.mark.parametrize(("held_out", "split"), [(1, "validation"), (2, "test")])
def test_manifest_omits_training_near_duplicates_of_held_out_images(held_out, split):
    assert rows_of(2, splits=[0, held_out], pairs=[(0, 1)]) == {"1": (split, "")}


def test_manifest_keeps_near_duplicates_in_validation_and_test():
    rows = rows_of(2, splits=[1, 2], pairs=[(0, 1)])
    assert rows == {"0": ("validation", ""), "1": ("test", "")}


def test_manifest_omits_direct_neighbours_of_held_out_images_only():
    """0 to 4 look like their neighbours; 0 is measured on."""
    rows = rows_of(5, splits=[1, 0, 0, 0, 0], pairs=[[0, 1], [1, 2], [2, 3], [3, 4]])
    alike = ("train", "alike: 2")
    assert rows == {"0": ("validation", ""), "2": alike, "3": alike, "4": alike}


def test_manifest_merges_groups_connected_by_near_duplicates():
    rows = rows_of(5, groups=["g1", "g2", "g2", "g3", ""], pairs=[(0, 1)])
    assert [group for _, group in rows.values()] == ["g1", "g1", "g1", "g3", ""]


def test_manifest_groups_near_duplicate_of_a_dropped_duplicate():
    rows = rows_of(3, fingerprints=[7, 7, 8], pairs=[(0, 2)])
    assert rows == dict.fromkeys("02", ("train", "alike: 0"))


def test_manifest_flags_name_the_root_behind_links(tmp_path):
    dataset = examined_folder(tmp_path / "real store" / "data", [])
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "data").symlink_to(tmp_path / "real store" / "data")
    spec = DataSpec("folders", str(tmp_path / "linked" / "data"))
    behind = examine.examine(spec, 2, lambda *_: None)
    listed(behind, tmp_path / "linked" / "list.csv")
    (tmp_path / "elsewhere").mkdir()
    listed(dataset, tmp_path / "elsewhere" / "list.csv")
    place = tmp_path / "real store" / "data" / "list.csv"
    assert shlex.split(manifest_flags(dataset.examples, str(place))) == [f"--manifest={place}"]


def test_manifest_keeps_odd_file_names(tmp_path):
    names = ["a\rb.jpg", 'a"b,c.jpg', "two\nlines.jpg", os.fsdecode(b"\xff.jpg")]
    dataset = examined_folder(tmp_path / "data", [f"cats/{name}" for name in names])
    assert set(names) <= set(listed(dataset, tmp_path / "list.csv"))


def test_manifest_of_record_files_is_refused(examined):
    inside = examined.examples.replace(lengths=np.full(len(examined.examples), 9))
    records = dataclasses.replace(examined, examples=inside)
    with pytest.raises(UserError, match="record files"):
        clean_manifest(records, "list.csv")
