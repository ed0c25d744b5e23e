"""Folders and split folders, listed as examples with labels and splits."""

import os

import pytest

from engine.core.errors import UserError
from engine.core.recipe import DataSpec
from pipelines.sources import sources
from tests.pipelines.sources.listed import counts, fill, folders, images


def test_class_folders_get_the_same_validation_split_anywhere(tmp_path):
    training = []
    for place in ("here", "there"):
        fill(tmp_path / place, *images("cat", 10), *images("dog", 20))
        examples = folders(tmp_path / place)
        assert examples.classes == ("cat", "dog")
        assert counts(examples) == [(8, 16), (2, 4), (0, 0)]
        assert sorted(examples.keys)[0] == "cat/0.jpg"
        training.append(set(examples.subset("train").keys))
    assert training[0] == training[1]


@pytest.mark.parametrize(
    "names",
    [
        *("train val test", "Train Valid Test", "training validation testing"),
        *("TRAIN dev TEST", "training_set eval test_set", "Training Val_Set Testing"),
    ],
)
def test_splits_are_found_by_their_usual_names(tmp_path, names):
    train, validation, test = names.split()
    fill(tmp_path, *images(f"{train}/cat", 3), *images(f"{train}/dog", 4), "notes.txt")
    fill(tmp_path, *images(f"{validation}/cat", 2), *images(f"{validation}/dog", 1))
    assert counts(folders(tmp_path)) == [(3, 4), (2, 1), (0, 0)]
    fill(tmp_path, *images(f"{test}/cat", 5), *images(f"{test}/dog", 6))
    examples = folders(tmp_path)
    assert counts(examples) == [(3, 4), (2, 1), (5, 6)]
    assert "validation/cat/0.jpg" in examples.keys


def test_validation_and_test_may_lack_classes(tmp_path):
    fill(tmp_path, *images("train/bird", 3), *images("train/cat", 3), *images("train/dog", 3))
    fill(tmp_path, *images("val/cat", 2), *images("val/dog", 1), *images("test/bird", 1))
    (tmp_path / "val" / "bird").mkdir()
    assert counts(folders(tmp_path)) == [(3, 3, 3), (0, 2, 1), (1, 0, 0)]


def test_data_to_evaluate_on_is_not_held_to_the_rules_of_training(tmp_path):
    fill(tmp_path, "train/cat/1.jpg", "val/cat/1.jpg", "test/dog/1.jpg", contents=b"the same")
    spec = DataSpec("folders", str(tmp_path))
    with pytest.raises(UserError, match="'dog' has images in test but none in train"):
        sources.load_examples(spec)
    found = [sources.load_split(spec, split).class_counts() for split in ("all", "train", "test")]
    assert found == [(2, 1), (1, 0), (0, 1)]
    one = DataSpec("folders", str(tmp_path / "test"))
    assert sources.load_split(one, "all").classes == ("dog",)


@pytest.mark.parametrize("limit", [None, 6])
@pytest.mark.parametrize("split", ["train", "validation"])
def test_split_to_evaluate_on_is_that_of_training(tmp_path, split, limit):
    fill(tmp_path, *images("cat", 10), *images("dog", 20), *images("copies", 3))
    fill(tmp_path, *images("dog/copies", 4), contents=b"the same")
    spec = DataSpec("folders", str(tmp_path), limit_examples=limit)
    examples = sources.load_examples(spec).subset(split)
    assert sources.load_split(spec, split).keys.tolist() == examples.keys.tolist()


def test_missing_validation_split_is_taken_from_train(tmp_path):
    fill(tmp_path, *images("train/cat", 10), *images("train/dog", 10))
    fill(tmp_path, *images("test/cat", 1), *images("test/dog", 1))
    assert counts(folders(tmp_path)) == [(8, 8), (2, 2), (1, 1)]


def test_classes_may_be_called_train_and_test(tmp_path):
    fill(tmp_path, *images("train", 5), *images("test", 5), *images("bus", 5))
    assert folders(tmp_path).classes == ("bus", "test", "train")


def test_nested_class_folders_are_read_at_the_outermost_level(tmp_path):
    fill(tmp_path, *images("cat/day", 5), *images("cat/night", 5))  # cats alone have both
    fill(tmp_path, *images("dog/day", 5), *images("bird/images", 5))
    assert folders(tmp_path).classes == ("bird", "cat", "dog")


def test_classes_that_look_like_splits_can_be_named_by_train_dir(tmp_path):
    fill(tmp_path, *images("cat/day", 5), *images("cat/night", 5))
    fill(tmp_path, *images("dog/day", 5), *images("dog/night", 5))
    with pytest.raises(UserError, match=r"same folders \(day, night\).*--train_dir="):
        folders(tmp_path)
    assert sources.load_examples(DataSpec("split_folders", str(tmp_path))).classes == ("cat", "dog")


def test_split_folders_reads_three_folders(tmp_path):
    fill(tmp_path, *images("a/cat", 3), *images("a/dog", 3))
    fill(tmp_path, *images("b/cat", 1), *images("b/dog", 1), *images("c/cat", 2))
    train, validation, test = (str(tmp_path / name) for name in "abc")
    spec = DataSpec("split_folders", train, validation, test)
    assert counts(sources.load_examples(spec)) == [(3, 3), (1, 1), (2, 0)]


def test_listing_includes_nested_files_and_what_is_passed_over(tmp_path):
    fill(tmp_path, *images("cat", 3), *images("dog", 3), "cat/deep/er/x.jpg", "cat/odd.xyz")
    fill(tmp_path, "cat/.DS_Store", ".git/x.jpg", "__MACOSX/cat/x.jpg", "readme.txt")
    examples = folders(tmp_path)
    assert set(examples.keys) == {*images("cat", 3), *images("dog", 3), "cat/deep/er/x.jpg"}
    names = {os.path.relpath(one.path, tmp_path) for one in examples.passed_over}
    assert names == {".git", "__MACOSX", "cat/.DS_Store", "cat/odd.xyz"}


def test_listing_follows_links_and_ends_in_circles(tmp_path):
    fill(tmp_path, *images("data/cat", 3), *images("data/dog", 3), *images("far", 2))
    cat = tmp_path / "data" / "cat"
    (cat / "loop").symlink_to(cat)
    (cat / "up").symlink_to(tmp_path / "data")
    (cat / "far").symlink_to(tmp_path / "far")
    (cat / "self.jpg").symlink_to(cat / "self.jpg")
    (cat / "lost.jpg").symlink_to(cat / "none.jpg")
    (tmp_path / "data" / "round").symlink_to("round")
    keys = set(folders(tmp_path / "data").keys)
    assert {"cat/far/0.jpg", "cat/far/1.jpg", "cat/self.jpg", "cat/lost.jpg"} <= keys
    assert len(keys) == 3 + 3 + 4


def test_listing_keeps_names_not_in_utf8(tmp_path):
    fill(tmp_path, *images("cat", 3), *images("dog", 3))
    with open(os.fsencode(tmp_path) + b"/cat/\xff\xfe.jpg", "wb") as file:
        file.write(b"x")
    os.mkdir(os.fsencode(tmp_path) + b"/\xe9")
    with open(os.fsencode(tmp_path) + b"/\xe9/x.jpg", "wb") as file:
        file.write(b"y")
    examples = folders(tmp_path)
    assert os.fsencode(tmp_path) + b"/cat/\xff\xfe.jpg" in examples.encoded_paths().tolist()
    assert examples.classes == ("cat", "dog", r"\xe9")


def test_duplicates_stay_in_one_split(tmp_path):
    fill(tmp_path, *images("cat", 30), *images("dog", 30))
    fill(tmp_path, *images("cat/copies", 10), contents=b"the same bytes")
    (tmp_path / "dog" / "link.jpg").symlink_to(tmp_path / "dog" / "0.jpg")
    for seed in range(4):
        examples = folders(tmp_path, split_seed=seed)
        where = dict(zip(examples.keys, examples.splits, strict=True))
        assert len({where[f"cat/copies/{index}.jpg"] for index in range(10)}) == 1
        assert where["dog/link.jpg"] == where["dog/0.jpg"]


MISTAKES = {
    "does not exist": [],
    "'bird' has no images": ["cat/1.jpg", "dog/1.jpg", "bird/.keep"],
    "only one class, 'cat'": ["cat/1.jpg", "cat/2.jpg"],
    "no images at all; passed over 2 files": ["cat/.keep", "dog/.keep"],
    "contains no folders": ["1.jpg", "2.jpg"],
    "'bird' has images in validation but none in train": [
        *("train/cat/1.jpg", "train/dog/1.jpg", "val/bird/1.jpg", "val/cat/2.jpg", "val/dog/2.jpg"),
    ],
    "no images to train on, only in validation and test": [
        *("val/cat/1.jpg", "val/dog/1.jpg", "test/cat/2.jpg", "test/dog/2.jpg"),
    ],
    "train/, val/, validation/, two of them for one split": [
        *(
            "train/cat/1.jpg",
            "train/dog/1.jpg",
            "val/cat/2.jpg",
            "val/dog/2.jpg",
            "validation/cat/3.jpg",
        ),
    ],
    "contains bus/ beside train, val": [
        "train/cat/1.jpg",
        "train/dog/1.jpg",
        "val/cat/2.jpg",
        "bus/dog/2.jpg",
    ],
    "contains runs/ beside Train": ["Train/cat/1.jpg", "Train/dog/1.jpg", "runs/plot.png"],
    "2 folders that all hold the same folders": [
        *(
            "learn/cat/1.jpg",
            "learn/dog/1.jpg",
            "learn/bus/1.jpg",
            "check/cat/2.jpg",
            "check/dog/2.jpg",
        ),
    ],
    "single folder, .*cat, dog.*--data_dir=.*/flowers": ["flowers/cat/1.jpg", "flowers/dog/2.jpg"],
    "classes 'cafe.u0301' and 'caf.xe9' look alike": ["cafe\u0301/1.jpg", "caf\xe9/2.jpg"],
    r"classes 'a.nb' and 'a..nb' look alike": ["a\nb/1.jpg", r"a\nb/2.jpg"],
    r"classes 'dog' and 'dog ' look alike": ["dog/1.jpg", "dog /2.jpg"],
}


@pytest.mark.parametrize("message", MISTAKES)
def test_invalid_folders_are_refused_in_one_line(tmp_path, message):
    fill(tmp_path / "data", *MISTAKES[message]) if MISTAKES[message] else None
    with pytest.raises(UserError, match=message) as caught:
        folders(tmp_path / "data")
    assert "\n" not in str(caught.value)


def test_same_file_in_two_splits_is_refused(tmp_path):
    fill(tmp_path, *images("train/cat", 3), *images("train/dog", 3))
    fill(tmp_path, *images("val/cat", 3), *images("val/dog", 3))
    assert len(folders(tmp_path)) == 12
    link = tmp_path / "val" / "dog" / "link.jpg"
    link.symlink_to(tmp_path / "train" / "dog" / "2.jpg")
    with pytest.raises(UserError, match=r"train and in validation: .*dog/2.jpg and .*link.jpg"):
        folders(tmp_path)
    link.unlink()
    big = bytes(range(256)) * 64
    fill(tmp_path, "train/cat/big.jpg", "val/cat/big.jpg", contents=big)
    with pytest.raises(UserError, match="the same file"):
        folders(tmp_path)
    # The same size and the same middle, but another first byte: two files.
    fill(tmp_path, "val/cat/big.jpg", contents=b"\1" + big[1:])
    assert len(folders(tmp_path)) == 14


def test_file_or_remote_location_is_refused(tmp_path):
    fill(tmp_path, "file")
    with pytest.raises(UserError, match="can't be read as a folder"):
        folders(tmp_path / "file")
    for place in ("gs://bucket/x", "s3://b/x", "https://host/x"):
        with pytest.raises(UserError, match="copy it here first"):
            sources.load_examples(DataSpec("folders", place))
    with pytest.raises(UserError, match="did you mean 'folders'"):
        sources.load_examples(DataSpec("folder", "x"))
