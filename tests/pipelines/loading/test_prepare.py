"""From a recipe to images that can be loaded, and messages about those that can't."""

import dataclasses
import os
import shutil

import numpy as np
import pytest

from engine.core.errors import UserError
from engine.core.recipe import DataSpec, Recipe
from pipelines.loading import prepare
from pipelines.pixel_cache.cache import NOWHERE, CacheLocation
from pipelines.pixel_cache.scan import BrokenImage
from pipelines.sources import sources
from pipelines.sources.examples import TRAIN, VALIDATION, from_columns
from tests.pipelines.cached import PLENTY, expected, recipe_of

pytestmark = pytest.mark.usefixtures("quick_decoding")


@pytest.fixture
def recipe(coloured) -> Recipe:
    return recipe_of(DataSpec("folders", str(coloured), validation_fraction=0.25))


@pytest.fixture
def manifest(tmp_path):
    """Writes rows of a manifest and returns the recipe of its data."""

    def write(rows, columns="path,label", **options) -> Recipe:
        path = tmp_path / "list.csv"
        path.write_text("\n".join([columns, *rows]))
        return recipe_of(DataSpec("manifest", str(path), **options))

    return write


def prepare_training(recipe, tmp_path, log=lambda line: None, location=NOWHERE):
    data = sources.load_examples(recipe.data)
    return prepare.prepare_training_data(data, recipe, tmp_path / "bad.csv", 2, log, location)


def test_evaluation_reads_the_pixels_that_training_cached(recipe, cache, tmp_path):
    lines, location = [], CacheLocation(cache, PLENTY)
    examples, pixels = prepare_training(recipe, tmp_path, lines.append, location)
    pixels.wait()
    for split in ("train", "validation"):
        some = examples.subset(split)
        np.testing.assert_array_equal(pixels.take(some.rows), expected(some.paths))
    validation, pixels = prepare.prepare_evaluation_data(
        recipe, examples.classes, "validation", 2, lines.append, location
    )
    assert not pixels.in_memory
    np.testing.assert_array_equal(pixels.take(validation.rows), expected(validation.paths))
    assert len(lines) == 1


def test_without_cache_all_examples_come_without_pixels(recipe, tmp_path):
    examples, pixels = prepare_training(recipe, tmp_path)
    assert pixels is None
    assert len(examples) == 52
    for location in (CacheLocation(tmp_path / "none", PLENTY), NOWHERE):
        examples, pixels = prepare.prepare_evaluation_data(
            recipe, examples.classes, "all", 2, print, location
        )
        assert pixels is None
        assert len(examples) == 52
        assert (examples.rows == -1).all()


def test_training_and_evaluation_say_what_is_passed_over(recipe, coloured, tmp_path):
    shutil.copytree(coloured, tmp_path / "data")
    folder = next(path for path in (tmp_path / "data").iterdir() if path.is_dir())
    (folder / "notes.txt").write_text("no image")
    (folder / "@eaDir").mkdir()
    data, lines = DataSpec("folders", str(tmp_path / "data")), []
    recipe = dataclasses.replace(recipe, data=data)
    classes = prepare_training(recipe, tmp_path, lines.append)[0].classes
    prepare.prepare_evaluation_data(recipe, classes, "all", 2, lines.append)
    said = [line for line in lines if line.startswith("passed over")]
    assert said == 2 * [
        "passed over 2 files or folders: 1 hidden or of the system (@eaDir 1), "
        "1 without an image's name or contents (.txt 1)"
    ]


@pytest.mark.parametrize("count", [1, 2])
def test_missing_files_of_a_manifest_are_one_log_line(manifest, coloured, tmp_path, count):
    """They are not called broken images, which could be replaced."""
    rows = [f"{path},{path.parent.name}" for path in sorted(coloured.glob("*/*"))]
    rows += [f"gone/{number}.jpg,{rows[0].rpartition(',')[2]}" for number in range(count)]
    recipe = manifest(rows, validation_fraction=0.25, manifest_root="/")
    lines = []
    prepare_training(recipe, tmp_path, lines.append)
    (line,) = [line for line in lines if "left out" in line]
    for words in (f"{count} of {len(rows)} files", "exist", "gone/", "count from /;"):
        assert words in line
    assert ("does not" if count == 1 else "do not") in line


def test_unusable_split_is_not_called_empty(manifest, recipe, coloured):
    """Its own files are counted, not all that the manifest names."""
    rows = [f"{path},{path.parent.name},train" for path in sorted(coloured.glob("*/*"))]
    rows += [f"{name}/{n}.jpg,{name},test" for name in ("blue", "red") for n in range(2)]
    listed, lines = manifest(rows, "path,label,split", manifest_root="/"), []
    with pytest.raises(UserError, match=r"^4 of 4 images can't be used; repair or remove what"):
        prepare.prepare_evaluation_data(listed, ("blue", "red"), "test", 2, lines.append)
    assert "4 of 4 files that were looked for do not exist" in lines[0]
    with pytest.raises(UserError, match="the data has no such examples"):
        prepare.prepare_evaluation_data(recipe, ("blue", "red"), "test", 2, lines.append)


def test_broken_class_is_reported_together_with_missing_files(manifest, coloured, tmp_path):
    """Else whoever corrects the paths is stopped again by what was visible before."""
    rows = [f"{path},blue" for path in sorted(coloured.glob("blue/*"))]
    rows += ["gone.jpg,blue", *(f"{tmp_path}/{n}.jpg,red" for n in range(4))]
    for number in range(4):
        (tmp_path / f"{number}.jpg").write_bytes(b"bad")
    with pytest.raises(UserError) as error:
        prepare_training(manifest(rows, validation_fraction=0.25, manifest_root="/"), tmp_path)
    assert "no image of class 'red' in train can be used" in str(error.value)
    assert "1 of 31 files that were looked for does not exist" in str(error.value)


@pytest.fixture
def exclude(tmp_path):
    """Excludes the images with these numbers of four, and returns the keys of the others."""
    names, splits = ["a,1", "a2", "b3", "b4"], [TRAIN, TRAIN, TRAIN, VALIDATION]
    data = from_columns(names, [0, 0, 1, 1], ("a", "b"), keys=names, splits=splits)

    def run(numbers, on_bad_image="skip"):
        broken = [BrokenImage(number, names[number], "empty file") for number in numbers]
        return prepare.exclude_broken(data, broken, tmp_path / "bad.csv", on_bad_image).keys

    return run


def test_broken_images_are_excluded_and_reported(tmp_path, exclude):
    assert exclude([], "fail").tolist() == ["a,1", "a2", "b3", "b4"]
    assert (tmp_path / "bad.csv").read_text() == "path,reason\n"
    assert exclude([0]).tolist() == ["a2", "b3", "b4"]
    assert (tmp_path / "bad.csv").read_text() == 'path,reason\n"a,1",empty file\n'
    assert os.listdir(tmp_path) == ["bad.csv"]


@pytest.mark.parametrize(
    ("number", "on_bad_image", "message"),
    [
        (1, "fail", r"1 of 4 .*first is a2 \(empty file\).*bad\.csv"),
        (2, "skip", "no image of class 'b' in train can be used"),
        (3, "skip", "no image in validation can be used"),
    ],
)
def test_broken_image_ends_the_run(tmp_path, exclude, number, on_bad_image, message):
    with pytest.raises(UserError, match=message):
        exclude([number], on_bad_image)
    assert len((tmp_path / "bad.csv").read_text().splitlines()) == 2
